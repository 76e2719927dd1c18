package ovs

import (
	"errors"
	"strings"
	"testing"

	"github.com/socketplane/socketplane/ovs/ovstest"
)

func TestRemoveBridge(t *testing.T) {
	i := ovstest.Start(t)
	s, err := Open(t.Context(), Config{RunDir: i.Dir, Datapath: DatapathNetdev})
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Socket: i.Socket(), RunDir: i.Dir, Bridge: DefaultBridge}
	if _, err := s.SetTunnels(t.Context(), []Tunnel{{Peer: "a", Remote: addr("198.18.0.2")}}); err != nil {
		t.Fatal(err)
	}
	s.Close() // the agent has ended
	i.Run(t, "ip", "addr", "add", "198.18.0.1/24", "dev", DefaultBridge)
	i.Run(t, "ip", "link", "set", DefaultBridge, "up")
	i.Run(t, "ovs-appctl", "ovs/route/add", "198.18.0.2/32", DefaultBridge)
	vsctl(t, i, "add-br", "others", "--", "set", "Bridge", "others", "datapath_type=netdev")
	for _, was := range []bool{true, false} {
		got, err := RemoveBridge(t.Context(), cfg)
		if err != nil || got != was {
			t.Errorf("got %v, %v; want %v", got, err, was)
		}
	}
	if left := strings.TrimSpace(vsctl(t, i, "list-br")); left != "others" {
		t.Errorf("bridges left: %s", left)
	}
	if routes := i.Run(t, "ovs-appctl", "ovs/route/show"); strings.Contains(routes, "198.18.0.2/32") {
		t.Errorf("the way to a peer is left:\n%s", routes)
	}

	// One of the same name that is not ours stays.
	cfg.Bridge = "others"
	if got, err := RemoveBridge(t.Context(), cfg); err != nil || got {
		t.Errorf("somebody else's: got %v, %v", got, err)
	}
	vsctl(t, i, "br-exists", "others")

	cfg.Socket = "unix:" + t.TempDir() + "/none.sock"
	if _, err := RemoveBridge(t.Context(), cfg); !errors.Is(err, ErrUnavailable) {
		t.Errorf("without Open vSwitch: %v", err)
	}
}
