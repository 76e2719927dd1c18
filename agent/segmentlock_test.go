package agent

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/socketplane/socketplane/agent/network"
)

// lockNetwork holds the lock of a network, as an attach does that waits for the store.
func (h *testHost) lockNetwork(id string) (unlock func()) {
	h.t.Helper()
	unlock, ok := h.segments.locks.TryLock(id)
	if !ok {
		h.t.Fatalf("network %s is locked", id)
	}
	return unlock
}

// A pass over the data plane does not wait for a network whose lock is held to remove a
// user of it. A later pass removes the user, and with the last one the gateway.
func TestPlaneSkipsLockedNetwork(t *testing.T) {
	for name, user := range map[string]string{"endpoint": "ghost", "keeper": keeperPrefix + "ghost"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newTestHost(t)
				r, ok := h.view.record("foo")
				if !ok {
					t.Fatal("no network foo")
				}
				if err := h.join(t.Context(), r, user); err != nil {
					t.Fatal(err)
				}
				h.remove(network.Key("foo"))
				h.watch()
				unlock := h.lockNetwork("foo")
				ctx, cancel := context.WithTimeout(t.Context(), listPatience)
				defer cancel()
				start, skipped := time.Now(), h.skipped.Load()
				if _, _, err := h.convergePlane(ctx); err != nil {
					t.Error(err)
				}
				if d := time.Since(start); d > 0 {
					t.Errorf("waited %v for the network", d)
				}
				if h.skipped.Load() == skipped {
					t.Error("no pass will follow soon")
				}
				unlock()
				h.converge()
				if h.segments.used("foo") {
					t.Errorf("users: %v", h.segments.users())
				}
				ports, _ := h.sw.Ports(t.Context())
				if len(ports) != 1 { // the tunnel
					t.Errorf("ports: %+v", ports)
				}
			})
		})
	}
}

// What the kernel reports is repaired without a wait for a network whose lock is held:
// first the packet filter, then the other networks. A pass of converge follows for it.
func TestRestoreSkipsLockedNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestHost(t)
		h.mustAttach("c1", "foo", "/ns/1")
		h.mustAttach("c2", "bar", "/ns/2")
		h.settle()
		h.converge()
		want := h.nat.State()
		h.nat.Lose()
		select {
		case <-h.kick:
		default:
		}
		unlock := h.lockNetwork("bar")
		defer unlock()
		h.calls.Reset()
		start := time.Now()
		if err := h.restoreHost(t.Context()); err != nil {
			t.Error(err)
		}
		if d := time.Since(start); d > 0 {
			t.Errorf("waited %v for the network", d)
		}
		if diff := cmp.Diff(want, h.nat.State()); diff != "" {
			t.Errorf("the packet filter (-want +got):\n%s", diff)
		}
		calls := h.calls.Names()
		first, gateway := slices.Index(calls, "NAT.Compare"), slices.Index(calls, "Links.EnsureGateway")
		if first < 0 || gateway < first {
			t.Errorf("the packet filter is not first, or the other network is left out: %q", calls)
		}
		select {
		case <-h.kick:
		default:
			t.Error("no pass of converge follows")
		}
	})
}
