package cli

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	"github.com/socketplane/socketplane/agent/api"
)

// needy makes a network that needs what the settings of a host must allow.
type needy struct{ *recordingService }

func (s needy) CreateNetwork(context.Context, api.CreateNetworkRequest) (api.Network, error) {
	return s.networks[0], nil
}

// Who makes a network hears what the other hosts need, and sees why a host does not
// use it; what is printed for programs is not disturbed.
func TestNetworkNeeds(t *testing.T) {
	n := testNetwork()
	n.Subnet, n.AllowMetadata, n.Problem = netip.MustParsePrefix("203.0.113.0/24"), true, "not allowed here"
	svc := testService()
	svc.networks = []api.Network{n}
	socket := serveTest(t, needy{svc})
	code, out, errOut := command(t, socket, "network", "create", "web", "203.0.113.0/24", "--allow-metadata", "-o", "json")
	if code != 0 || !strings.HasPrefix(out, "{") || !strings.Contains(out, `"problem": "not allowed here"`) {
		t.Errorf("exit %d: %s", code, out)
	}
	for _, says := range []string{`allow_metadata = ["web"]`, `allow_public = ["203.0.113.0/24"]`, "socketplane.toml", "restart"} {
		if !strings.Contains(errOut, says) {
			t.Errorf("%q does not say %q", errOut, says)
		}
	}
	if code, out, errOut := command(t, socket, "network", "info", "web"); code != 0 || errOut != "" || !strings.Contains(out, "Problem: not allowed here\n") {
		t.Errorf("exit %d: %s%s", code, out, errOut)
	}
}
