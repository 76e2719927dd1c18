package agent

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/link"
	"github.com/socketplane/socketplane/ovs"
)

// planeHost is a running host whose store hangs: it answers no call and refuses none.
func planeHost(t *testing.T) *testHost {
	h := newTestHost(t)
	h.mustAttach("c1", "foo", "/ns/1")
	h.mustAttach("c2", "foo", "/ns/2")
	h.start()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	<-h.known
	synctest.Wait()
	for _, call := range []string{"Get", "List", "CompareAndSet", "Delete", "Txn"} {
		t.Cleanup(h.calls.Block("Store." + call))
	}
	h.hang()
	return h
}

// hang has converge wait for the store, before it has come to the data plane.
func (h *testHost) hang() {
	h.t.Helper()
	before := len(h.calls.Names())
	h.reclaim.Store(true)
	signal(h.kick)
	synctest.Wait()
	if now := h.calls.Names()[before:]; !slices.ContainsFunc(now, func(n string) bool { return n == "Store.Get" || n == "Store.List" }) {
		h.t.Fatalf("nobody waits for the store: the test shows nothing; called: %q", now)
	}
}

// TestSwitchHealsWithoutStore: whatever a switch has lost when it comes back, it has
// again within a second, though the store hangs, and though a pass of converge waits
// for the store. The clock is the bubble's: a slow machine does not count.
func TestSwitchHealsWithoutStore(t *testing.T) {
	loseFlows := func(h *testHost) { _ = h.sw.SetForwarding(h.t.Context(), ovs.Forwarding{}) }
	losePort := func(name string) func(*testHost) {
		return func(h *testHost) { h.sw.Change(name, func(*ovs.Port) bool { return false }) }
	}
	for name, lose := range map[string][]func(*testHost){
		"flows": {loseFlows},
		"port":  {losePort(link.HostName("c1"))},
		"renumber": {func(h *testHost) {
			h.sw.Change(link.HostName("c1"), func(p *ovs.Port) bool { p.OFPort = 99; return true })
		}},
		"gateway": {losePort(link.GatewayName("foo"))},
		"tunnel":  {losePort(ovs.TunnelName(peerID))},
		"all":     {loseFlows, losePort(link.HostName("c1")), losePort(link.HostName("c2")), losePort(link.GatewayName("foo")), losePort(ovs.TunnelName(peerID))},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := planeHost(t)
				want := h.sw.State()
				for round := range 3 {
					for _, f := range lose {
						f(h)
					}
					h.sw.Change("", func(*ovs.Port) bool { return false }) // only says that something changed
					time.Sleep(time.Second)
					synctest.Wait()
					if diff := cmp.Diff(want, h.sw.State()); diff != "" {
						t.Fatalf("round %d (-want +got):\n%s", round, diff)
					}
					h.wantPorts()
				}
			})
		})
	}
}

// wantPorts compares the numbers by which flows name ports with those of the ports.
func (h *testHost) wantPorts() {
	h.t.Helper()
	ports, _ := h.sw.Ports(context.Background())
	var there []int
	for _, p := range ports {
		there = append(there, p.OFPort)
	}
	f := h.sw.Forwarding()
	for _, p := range f.Peers {
		if !slices.Contains(there, p.OFPort) {
			h.t.Errorf("the flows name port %d for peer %s", p.OFPort, p.ID)
		}
	}
	for _, s := range f.Segments {
		if !slices.Contains(there, s.GatewayPort) {
			h.t.Errorf("the flows name port %d for gateway %s", s.GatewayPort, s.Gateway)
		}
		for _, l := range s.Local {
			if !slices.Contains(there, l.OFPort) {
				h.t.Errorf("the flows name port %d for %s", l.OFPort, l.IP)
			}
		}
	}
}

// TestSlowComparisonWithoutStore: what nobody tells of comes back while a pass of
// converge waits for the store, too.
func TestSlowComparisonWithoutStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := planeHost(t)
		want := h.sw.State()
		for range 3 {
			h.sw.Drop(link.HostName("c1"))
			_ = h.sw.SetForwarding(t.Context(), ovs.Forwarding{})
			time.Sleep(slowTimer + retryConverge)
			synctest.Wait()
			if diff := cmp.Diff(want, h.sw.State()); diff != "" {
				t.Fatalf("(-want +got):\n%s", diff)
			}
		}
	})
}

// TestOneComparisonAtATime: while the store answers, converge compares, and watchPlane
// does not do the same once more.
func TestOneComparisonAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestHost(t)
		h.mustAttach("c1", "foo", "/ns/1")
		h.start()
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- h.Run(ctx) }()
		<-h.known
		time.Sleep(slowTimer)
		synctest.Wait()
		const rounds = 20
		h.calls.Reset()
		time.Sleep(rounds * slowTimer)
		synctest.Wait()
		count := map[string]int{}
		for _, name := range h.calls.Names() {
			count[name]++
		}
		for _, call := range []string{"Switch.Resync", "Switch.SetTunnels", "NAT.Compare"} {
			if n := count[call]; n < rounds-1 || n > rounds+1 {
				t.Errorf("%s: %d times in %d periods", call, n, rounds)
			}
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// TestSwitchHealsBesideAnAttach: a call that waits for the store while it holds an
// endpoint, and the gateway of a network that is new here, keeps nobody else's port
// from being mended.
func TestSwitchHealsBesideAnAttach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := planeHost(t)
		want := h.sw.State()
		for id, network := range map[string]string{"c1": "foo", "n1": "bar"} {
			go func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				_ = h.Release(ctx, id)
				_, _ = h.Attach(ctx, api.AttachRequest{ID: id, Network: network, NetNS: "/ns/9", Source: api.SourceDocker})
			}()
		}
		synctest.Wait()
		gone := link.HostName("c1")
		want = slices.DeleteFunc(want, func(l string) bool {
			return slices.ContainsFunc([]string{"port " + gone, "local 10001 10.6.0.2 "}, func(p string) bool { return len(l) >= len(p) && l[:len(p)] == p })
		})
		if diff := cmp.Diff(want, h.sw.State()); diff != "" {
			t.Fatalf("before (-want +got):\n%s", diff)
		}
		h.sw.Change(link.HostName("c2"), func(*ovs.Port) bool { return false })
		time.Sleep(time.Second)
		synctest.Wait()
		if diff := cmp.Diff(want, h.sw.State()); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
		h.wantPorts()
	})
}

// TestLostInterfaceWaitsForStore: an endpoint that has ended is the cluster's to
// hear of. It does not keep the others' ports from being mended.
func TestLostInterfaceWaitsForStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := planeHost(t)
		if _, err := h.Endpoint(t.Context(), "c1"); err != nil {
			t.Fatal(err)
		}
		h.links.RemoveNetNS("/ns/1")
		time.Sleep(2 * lossDelay)
		synctest.Wait() // converge publishes the end of c1, and waits for the store
		h.sw.Change(link.HostName("c2"), func(*ovs.Port) bool { return false })
		time.Sleep(time.Second)
		synctest.Wait()
		ports, _ := h.sw.Ports(t.Context())
		if !slices.ContainsFunc(ports, func(p ovs.Port) bool { return p.Name == link.HostName("c2") }) {
			t.Error("the port of the other endpoint is not back")
		}
		h.wantPorts()
	})
}
