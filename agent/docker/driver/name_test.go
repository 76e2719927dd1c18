package driver

import (
	"slices"
	"strings"
	"testing"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/docker"
)

// TestForeignNames: a Docker network whose name the cluster does not take stays,
// under a name of the cluster's.
func TestForeignNames(t *testing.T) {
	for _, name := range []string{"my net", "a/b", "büro", strings.Repeat("x", 130)} {
		a := &agent{}
		d := newTestDriver(a)
		there := &dockerd{networks: []map[string]any{dockersNetwork("n1", name, "10.6.0.0/24", nil)}}
		engine := there.engine(t)
		if status, answer := call(t, d.Handler(), "NetworkDriver.CreateNetwork", `{"NetworkID":"n1","IPv4Data":[{`+aPool+`}]}`); status != 200 {
			t.Fatal(answer)
		}
		if err := d.Event(t.Context(), engine, docker.Event{Kind: docker.NetworkMade, ID: "n1", Name: name}); err != nil {
			t.Fatal(err)
		}
		if err := d.sync(t.Context(), engine); err != nil {
			t.Fatal(err)
		}
		if n, ok := d.known.network("n1"); !ok || api.CheckNetworkName(n) != nil || len(there.asked) > 0 || !slices.ContainsFunc(a.networks, func(made api.Network) bool { return made.ID == n }) {
			t.Errorf("%q stands for %q; docker was asked %q, the agent %q", name, n, there.asked, a.asked)
		}
	}
}
