package network_test

import (
	"context"
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"

	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/agent/state/statetest"
)

// counted counts what is read of a store.
type counted struct {
	network.Store
	calls, entries, bytes atomic.Int64
}

func (c *counted) Get(ctx context.Context, key string) (state.Entry, error) {
	e, err := c.Store.Get(ctx, key)
	c.calls.Add(1)
	if err == nil {
		c.count(e)
	}
	return e, err
}

func (c *counted) List(ctx context.Context, prefix string) ([]state.Entry, error) {
	entries, err := c.Store.List(ctx, prefix)
	c.calls.Add(1)
	c.count(entries...)
	return entries, err
}

func (c *counted) count(entries ...state.Entry) {
	c.entries.Add(int64(len(entries)))
	for _, e := range entries {
		c.bytes.Add(int64(len(e.Key) + len(e.Value)))
	}
}

func (c *counted) reset() {
	c.calls.Store(0)
	c.entries.Store(0)
	c.bytes.Store(0)
}

// small gives the nth of many small subnets.
func small(n int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n >> 8), byte(n), 0}), 24)
}

// fill makes n networks.
func fill(t testing.TB, m *network.Manager, n int) {
	t.Helper()
	for i := range n {
		if _, _, err := m.Create(t.Context(), network.Spec{Name: fmt.Sprintf("net%d", i), Subnet: small(i)}); err != nil {
			t.Fatal(err)
		}
	}
}

// Creating a network reads each of the others once and nothing else that grows with them.
func TestCreateReadsTheOthersOnce(t *testing.T) {
	for _, subnet := range []netip.Prefix{small(5000), noSubnet} {
		store := &counted{Store: statetest.New()}
		m := network.New(network.Config{Store: store})
		type cost struct{ calls, entries, bytes int64 }
		var costs []cost
		const few, many = 50, 600
		for _, n := range []int{few, many} {
			fill(t, m, n) // those that are there already stay
			name := fmt.Sprintf("more%d", n)
			store.reset()
			if _, _, err := m.Create(t.Context(), network.Spec{Name: name, Subnet: subnet}); err != nil {
				t.Fatal(err)
			}
			costs = append(costs, cost{store.calls.Load(), store.entries.Load(), store.bytes.Load()})
			if err := m.Delete(t.Context(), name); err != nil {
				t.Fatal(err)
			}
		}
		if costs[0].calls != costs[1].calls {
			t.Errorf("calls grow with the networks: %+v", costs)
		}
		if grown := costs[1].entries - costs[0].entries; grown != many-few {
			t.Errorf("with %d more networks %d more entries are read: %+v", many-few, grown, costs)
		}
	}
}

// BenchmarkCreate creates one more network beside some.
func BenchmarkCreate(b *testing.B) {
	for _, n := range []int{50, 600} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			m := network.New(network.Config{Store: statetest.New()})
			fill(b, m, n)
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := m.Create(b.Context(), network.Spec{Name: "more", Subnet: small(5000)}); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if err := m.Delete(b.Context(), "more"); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}
