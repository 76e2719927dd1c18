package agent

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/socketplane/socketplane/agent/agenttest"
	"github.com/socketplane/socketplane/agent/cluster"
	"github.com/socketplane/socketplane/agent/link"
	"github.com/socketplane/socketplane/ovs"
)

var (
	peerVTEP = netip.MustParseAddr("192.0.2.2")
	// direct is a peer on the same segment, routed one behind a router.
	direct = link.Neighbor{Interface: "br-phy", Addr: peerVTEP, MAC: "02:00:00:00:00:02"}
	routed = link.Neighbor{Interface: "br-phy", Addr: netip.MustParseAddr("192.0.2.254"), MAC: "02:00:00:00:00:fe"}
)

func (h *testHost) wantWays(what string, want ...link.Neighbor) {
	h.t.Helper()
	var ways []ovs.Way
	for _, n := range want {
		ways = append(ways, ovs.Way{Peer: peerVTEP, Hop: n.Addr, MAC: n.MAC, Bridge: n.Interface})
	}
	if diff := cmp.Diff(ways, h.sw.Ways(), cmp.Comparer(sameAddr)); diff != "" {
		h.t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// TestWaysArePinned: the userspace datapath is told the way to each peer once, again
// when it changes, when the switch may have forgotten it, and in time before it does.
func TestWaysArePinned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestHost(t)
		h.wantWays("nobody knows the peer's MAC")
		h.links.SetNeighbor(peerVTEP, direct)
		h.converge()
		h.wantWays("it is known", direct)
		h.converge()
		h.wantWays("nothing has changed")
		h.links.SetNeighbor(peerVTEP, routed)
		h.converge()
		h.wantWays("by a router now", routed)

		time.Sleep(pinEvery - time.Millisecond)
		h.converge()
		h.wantWays("not yet due")
		time.Sleep(time.Millisecond)
		h.converge()
		h.wantWays("due", routed)

		h.forgetful.Store(true)
		h.converge()
		h.wantWays("the switch was restarted", routed)
		h.converge()
		h.wantWays("it has been told")

		// What fails is left to the switch, and tried again.
		h.links.SetNeighbor(peerVTEP, direct)
		h.calls.Fail("Switch.PinWay", agenttest.ErrFailed)
		h.converge()
		h.calls.Fail("Switch.PinWay", nil)
		h.wantWays("told to fail")
		h.converge()
		h.wantWays("again", direct)
		h.calls.Fail("Links.Neighbor", agenttest.ErrFailed)
		h.converge()
		h.calls.Fail("Links.Neighbor", nil)
		h.converge()
		h.wantWays("a look that failed for once changes nothing")

		// A peer that was away comes back to a switch that may have forgotten it.
		h.remove(cluster.HostsPrefix + peerID)
		h.converge()
		time.Sleep(peerGrace)
		h.converge()
		if len(h.trusted()) != 0 {
			t.Fatal("the peer is still there")
		}
		h.put(cluster.HostsPrefix+peerID, `{"version":1,"id":"`+peerID+`","name":"h2","vtep":"192.0.2.2","underlay_mtu":1500,"routes":null,"agent":"","datapath":"netdev"}`)
		h.converge()
		h.wantWays("it is back", direct)
	})
}

// TestKernelFindsTheWay: the kernel's datapath is told no ways.
func TestKernelFindsTheWay(t *testing.T) {
	h := newTestHost(t)
	h.links.SetNeighbor(peerVTEP, direct)
	h.sw.SetDatapath(ovs.DatapathSystem)
	h.calls.Reset()
	h.converge()
	h.wantWays("kernel")
	if slices.Contains(h.calls.Names(), "Links.Neighbor") {
		t.Error("it is looked for all the same")
	}
}

// TestWaysComeBackWithoutStore: a switch that was restarted is told the ways at once,
// though the store hangs, and at once means before a peer that does not answer has
// been waited for.
func TestWaysComeBackWithoutStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := planeHost(t)
		h.links.SetNeighbor(peerVTEP, direct)
		for range 2 {
			h.sw.Change("", func(*ovs.Port) bool { return false })
			time.Sleep(time.Second)
			synctest.Wait()
			h.wantWays("restarted", direct)
		}
		// Flows do not wait for neighbours.
		release := h.calls.Block("Links.Neighbor")
		defer release()
		want := h.sw.State()
		_ = h.sw.SetForwarding(t.Context(), ovs.Forwarding{})
		h.sw.Change("", func(*ovs.Port) bool { return false })
		synctest.Wait()
		if diff := cmp.Diff(want, h.sw.State()); diff != "" {
			t.Errorf("flows wait for a neighbour (-want +got):\n%s", diff)
		}
	})
}

// TestPinWayKeepsWhatIsKnown: an error leaves what was known in force.
func TestPinWayKeepsWhatIsKnown(t *testing.T) {
	h := newTestHost(t)
	old := pinnedWay{Way: ovs.Way{Peer: peerVTEP, Hop: peerVTEP, MAC: direct.MAC, Bridge: "br-phy"}, at: time.Now()}
	if got, err := h.pinWay(t.Context(), peerVTEP, old); !errors.Is(err, link.ErrNotFound) || got != old {
		t.Errorf("got %+v, %v", got, err)
	}
}
