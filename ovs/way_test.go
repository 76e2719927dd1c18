package ovs

import (
	"strings"
	"testing"
)

// TestPinWay: what the switch is told is what it then shows; what it refuses, or
// what is no MAC, is an error that names the way.
func TestPinWay(t *testing.T) {
	s, i := open(t)
	vsctl(t, i, "add-br", "br-phy", "--", "set", "Bridge", "br-phy", "datapath_type=netdev")
	i.Run(t, "ip", "addr", "add", "198.18.0.1/24", "dev", "br-phy")
	i.Run(t, "ip", "link", "set", "br-phy", "up")
	eventually(t, "the switch has a route", func() bool {
		return strings.Contains(i.Run(t, "ovs-appctl", "ovs/route/show"), "198.18.0.0/24")
	})
	shown := func(command string, want ...string) bool {
		for line := range strings.Lines(i.Run(t, "ovs-appctl", command)) {
			fields := strings.Fields(line)
			found := true
			for _, w := range want {
				has := false
				for _, f := range fields {
					has = has || f == w
				}
				found = found && has
			}
			if found {
				return true
			}
		}
		return false
	}
	for _, w := range []Way{
		{Peer: addr("198.18.0.2"), Hop: addr("198.18.0.2"), MAC: mac(2), Bridge: "br-phy"},
		{Peer: addr("203.0.113.7"), Hop: addr("198.18.0.254"), MAC: mac(9), Bridge: "br-phy"}, // behind a router
		{Peer: addr("198.18.0.2"), Hop: addr("198.18.0.2"), MAC: mac(3), Bridge: "br-phy"},    // another machine has the address
	} {
		for range 2 { // again changes nothing
			if err := s.PinWay(t.Context(), w); err != nil {
				t.Fatal(err)
			}
			if !shown("tnl/neigh/show", w.Hop.String(), w.MAC, w.Bridge) {
				t.Errorf("%s: no MAC:\n%s", w.Peer, i.Run(t, "ovs-appctl", "tnl/neigh/show"))
			}
			route := []string{"User:", w.Peer.String() + "/32", w.Bridge}
			if w.Hop != w.Peer {
				route = append(route, w.Hop.String())
			}
			if !shown("ovs/route/show", route...) {
				t.Errorf("%s: no route:\n%s", w.Peer, i.Run(t, "ovs-appctl", "ovs/route/show"))
			}
		}
	}
	before := i.Run(t, "ovs-appctl", "tnl/neigh/show") + i.Run(t, "ovs-appctl", "ovs/route/show")
	for name, w := range map[string]Way{
		"no MAC":        {Peer: addr("198.18.0.3"), Hop: addr("198.18.0.3"), Bridge: "br-phy"},
		"multicast MAC": {Peer: addr("198.18.0.3"), Hop: addr("198.18.0.3"), MAC: "01:00:5e:00:00:01", Bridge: "br-phy"},
		"an option":     {Peer: addr("198.18.0.3"), Hop: addr("198.18.0.3"), MAC: "--help", Bridge: "br-phy"},
	} {
		if err := s.PinWay(t.Context(), w); err == nil || !strings.Contains(err.Error(), "198.18.0.3") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if after := i.Run(t, "ovs-appctl", "tnl/neigh/show") + i.Run(t, "ovs-appctl", "ovs/route/show"); after != before {
		t.Errorf("what was refused changed something:\n%s", after)
	}
	// An interface that the switch has not, and a switch that is away.
	w := Way{Peer: addr("198.18.0.3"), Hop: addr("198.18.0.3"), MAC: mac(3), Bridge: "nothere"}
	if err := s.PinWay(t.Context(), w); err == nil || !strings.Contains(err.Error(), "nothere") {
		t.Errorf("by a bridge that is not there: %v", err)
	}
	i.KillSwitch(t)
	w.Bridge = "br-phy"
	if err := s.PinWay(t.Context(), w); err == nil || !strings.Contains(err.Error(), "ovs-appctl") {
		t.Errorf("without a switch: %v", err)
	}
}
