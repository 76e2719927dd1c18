package ovs

import (
	"testing"
	"time"

	"github.com/socketplane/socketplane/ovs/ovstest"
)

// small is a state with one network, one endpoint and one remote one.
func small(local, tunnel int) Forwarding {
	return Forwarding{
		Self:  addr("198.18.0.1"),
		Peers: []Peer{{ID: "b", VTEP: addr("198.18.0.2"), OFPort: tunnel}},
		Segments: []Segment{{
			VNI: 100, Subnet: prefix("10.6.0.0/16"), Gateway: addr("10.6.0.1"), GatewayMAC: mac(1),
			Local:  []Local{{OFPort: local, MAC: mac(2), IP: addr("10.6.0.2")}},
			Remote: []Remote{{MAC: mac(3), IP: addr("10.6.0.3"), OFPort: tunnel}},
		}},
	}
}

// backWithin is how long after a switch answers again it may be without its flows. It
// is looked for every 50 ms, and told by ovs-ofctl, which runs twice.
const backWithin = time.Second

// TestSwitchRestart: a switch that was killed and started has its flows again as soon
// as it answers. The best of some rounds counts, less what this process stood still
// for: a busy machine is not what is tested.
func TestSwitchRestart(t *testing.T) {
	s, i := open(t)
	f := small(1, 2)
	if err := s.SetForwarding(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	want := dump(t, i)
	best := time.Hour
	for range 3 {
		i.KillSwitch(t)
		eventually(t, "what was set is forgotten", func() bool { return !s.flows.census().known })
		select {
		case <-s.Changed(): // from before the kill
		default:
		}
		i.StartSwitch(t)
		start, stood := time.Now(), standstill()
		awaitChanged(t, s)
		if err := s.SetForwarding(t.Context(), f); err != nil {
			t.Fatal(err)
		}
		took, stall := time.Since(start), stood()
		t.Logf("flows were back %s after ovs-vswitchd; this process stood still for %s of that", took, stall)
		best = min(best, took-stall)
		equalFlows(t, want, dump(t, i))
	}
	if best > backWithin {
		t.Errorf("flows were back %s after ovs-vswitchd at best, later than %s", best, backWithin)
	}
}

// standstill measures for how long this process does not run, until it is asked.
func standstill() (stood func() time.Duration) {
	const pace = 5 * time.Millisecond
	end, sum := make(chan struct{}), make(chan time.Duration, 1)
	go func() {
		tick := time.NewTicker(pace)
		defer tick.Stop()
		var all time.Duration
		last := time.Now()
		for {
			select {
			case <-tick.C:
				now := time.Now()
				all += max(now.Sub(last)-2*pace, 0)
				last = now
			case <-end:
				sum <- all + max(time.Since(last)-2*pace, 0)
				return
			}
		}
	}()
	return func() time.Duration { close(end); return <-sum }
}

func TestDatabaseRestart(t *testing.T) {
	i := ovstest.Start(t)
	// A busy machine may take longer for the restart than a call waits.
	s := openOn(t, i, func(s *Switch) { s.sessionTimeout = time.Minute })
	i.AddVeth(t, "v1")
	for round := range 2 {
		i.KillDB(t)
		eventually(t, "the loss is noticed", func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.session == nil
		})
		select {
		case <-s.Changed():
		default:
		}
		done := make(chan error, 1)
		go func() { // waits for the database
			_, err := s.AddPort(t.Context(), Port{Name: "v1", Kind: KindEndpoint, VLAN: 1 + round})
			done <- err
		}()
		i.StartDB(t)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		awaitChanged(t, s)
		ports, err := s.Ports(t.Context())
		if err != nil || len(ports) != 1 || ports[0].VLAN != 1+round {
			t.Errorf("got %v, %v", ports, err)
		}
	}
	// Events of the new connection arrive.
	vsctl(t, i, "del-port", "v1")
	awaitChanged(t, s)
}

func TestDatabaseLostItsContent(t *testing.T) {
	s, i := open(t)
	i.ReplaceDB(t)
	awaitChanged(t, s)
	eventually(t, "the bridge is made again", func() bool {
		return i.VSCtl("br-exists", DefaultBridge).Run() == nil
	})
	// ovs-vswitchd has heard of it, too: a port that it does not open soon is taken
	// away again.
	eventually(t, "the bridge is opened", func() bool {
		out, err := i.VSCtl("get", "Interface", DefaultBridge, "ofport").Output()
		return err == nil && string(out) == "65534\n" // OFPP_LOCAL
	})
	i.AddVeth(t, "v1")
	if _, err := s.AddPort(t.Context(), Port{Name: "v1", Kind: KindEndpoint}); err != nil {
		t.Error(err)
	}
}

func TestOthersChangeTheBridge(t *testing.T) {
	s, i := open(t)
	vsctl(t, i, "set-controller", DefaultBridge, "tcp:192.0.2.1:6653", "--", "set-fail-mode", DefaultBridge, "standalone")
	awaitChanged(t, s)
	eventually(t, "the bridge is repaired", func() bool {
		return vsctl(t, i, "get-controller", DefaultBridge) == "" && vsctl(t, i, "get-fail-mode", DefaultBridge) == "secure\n"
	})
}

func TestFlowsTakenAwayAreNoticed(t *testing.T) {
	s, i := open(t)
	f := small(1, 2)
	if err := s.SetForwarding(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	want := dump(t, i)
	i.Run(t, "ovs-ofctl", "-O", "OpenFlow14", "del-flows", "unix:"+i.Dir+"/"+DefaultBridge+".mgmt", "table=4")
	awaitChanged(t, s)
	eventually(t, "what was set is forgotten", func() bool { return !s.flows.census().known })
	if err := s.SetForwarding(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	equalFlows(t, want, dump(t, i))
}

func TestOwnCallsAreNoChanges(t *testing.T) {
	s, i := open(t)
	i.AddVeth(t, "v1")
	for n := range 3 {
		if _, err := s.AddPort(t.Context(), Port{Name: "v1", Kind: KindEndpoint, VLAN: n}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.SetTunnels(t.Context(), []Tunnel{{Peer: "a", Remote: addr("198.18.0.2")}}); err != nil {
			t.Fatal(err)
		}
		if err := s.SetForwarding(t.Context(), small(1, 2)); err != nil {
			t.Fatal(err)
		}
		if _, err := s.SetTunnels(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if err := s.RemovePort(t.Context(), "v1"); err != nil {
			t.Fatal(err)
		}
	}
	// What another does afterwards arrives after all that.
	if _, err := s.AddPort(t.Context(), Port{Name: "v1", Kind: KindEndpoint}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.Changed():
		t.Error("our own calls gave notice of a change")
	default:
	}
	vsctl(t, i, "set", "Port", "v1", "tag=9")
	awaitChanged(t, s)
}
