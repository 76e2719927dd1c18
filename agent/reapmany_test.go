package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/socketplane/socketplane/agent/cluster"
	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/ipam"
)

// withManyDead is a host whose n peers died long ago, each with an endpoint on foo.
// All have addresses in one block.
func withManyDead(t *testing.T, n int) (*testHost, *coroner) {
	t.Helper()
	h, c := newTestHost(t), &coroner{gone: map[string]time.Time{}}
	h.Detector, h.ReclaimAfter = c, time.Hour
	for i := range n {
		h.put(cluster.HostsPrefix+hostID(i), string(hostEntry(i, 1500).Value))
		ip := netip.AddrFrom4([4]byte{10, 6, 0, byte(64 + i)})
		h.put(network.EndpointsKey("foo", hostID(i)), fmt.Sprintf(
			`{"version":1,"endpoints":[{"id":"r%d","ip":%q,"mac":%q,"ifname":"eth0","source":"docker","attached":true}]}`, i, ip, macOf(ip)))
		if err := ipam.New(h.store, hostID(i)).AllocateAddr(t.Context(), ipam.Pool{Subnet: netip.MustParsePrefix("10.6.0.0/16")}, ip, hostID(i)+"/r"); err != nil {
			t.Fatal(err)
		}
		c.gone[hostID(i)] = time.Now().Add(-2 * time.Hour)
	}
	h.converge()
	return h, c
}

// left lists which of the dead have a record still.
func (h *testHost) left(n int) (ids []int) {
	h.t.Helper()
	for i := range n {
		if _, err := h.store.Store.Get(h.t.Context(), cluster.HostsPrefix+hostID(i)); err == nil {
			ids = append(ids, i)
		} else if !errors.Is(err, state.ErrNotFound) {
			h.t.Fatal(err)
		}
	}
	return ids
}

// stuck is a store in which what is written for one host hangs.
type stuck struct {
	Store
	key     string
	reached chan struct{}
}

func (s stuck) Txn(ctx context.Context, ops []state.Op) error {
	if slices.ContainsFunc(ops, func(op state.Op) bool { return op.Key == s.key }) {
		select {
		case s.reached <- struct{}{}:
		default:
		}
		<-ctx.Done()
		return ctx.Err()
	}
	return s.Store.Txn(ctx, ops)
}

// TestReapingHoldsUpNothing: while a dead host's things are being given up, which can
// take long, those of others are, too, and who dies now is seen to.
func TestReapingHoldsUpNothing(t *testing.T) {
	const n = 5
	h, c := withManyDead(t, n)
	slow := stuck{Store: h.Store, key: cluster.HostsPrefix + hostID(0), reached: make(chan struct{}, 1)}
	h.Store = slow
	look := func(what string) {
		t.Helper()
		done := make(chan error, 1)
		go func() { done <- h.lookForDead(t.Context()) }()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%s: the look has not come to its end", what)
		}
	}
	look("the first")
	<-slow.reached
	eventually(t, "the others are given up", func() bool { return slices.Equal(h.left(n), []int{0}) })
	c.gone = map[string]time.Time{hostID(0): c.gone[hostID(0)], peerID: time.Now()}
	look("the second")
	if !h.view.isGone(peerID) {
		t.Error("who died meanwhile is not known to be gone")
	}
	h.errands.cancel()
	h.settle()
}

// TestReapMany: many hosts that died together are given up together. What is read for
// it does not grow with their number.
func TestReapMany(t *testing.T) {
	const n = 12
	h, _ := withManyDead(t, n)
	h.calls.Reset()
	if err := h.lookForDead(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.settle()
	if lists := h.lists(); lists > 2 {
		t.Errorf("the store was listed %d times for %d hosts", lists, n)
	}
	if left := h.left(n); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if list, err := h.Addresses.List(t.Context(), netip.MustParsePrefix("10.6.0.0/16")); err != nil || len(list) != 0 {
		t.Errorf("addresses: %v, %v", list, err)
	}
	if entries, err := h.store.List(t.Context(), network.EndpointsPrefix); err != nil || len(entries) != 0 {
		t.Errorf("lists: %v, %v", entries, err)
	}
	if _, err := h.store.Get(t.Context(), reaperKey); !errors.Is(err, state.ErrNotFound) {
		t.Errorf("the reaper's key: %v", err)
	}
}
