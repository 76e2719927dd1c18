package ipam_test

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/agent/state/consultest"
	"github.com/socketplane/socketplane/ipam"
)

const hosts = 16

// crowd is 16 hosts, each with its own store connection to one Consul, and one
// more connection to look at it.
func crowd(tb testing.TB) ([hosts]*ipam.Allocator, state.Store) {
	tb.Helper()
	address := consultest.Start(tb)
	var all [hosts]*ipam.Allocator
	for h := range all {
		all[h] = ipam.New(openConsul(tb, address), fmt.Sprintf("host-%d", h))
	}
	return all, openConsul(tb, address)
}

// everyHost does a share of n things on each host, all hosts at once.
func everyHost(ctx context.Context, n int, do func(ctx context.Context, host, i int) error) error {
	g, ctx := errgroup.WithContext(ctx)
	for h := range hosts {
		g.Go(func() error {
			for i := h; i < n; i += hosts {
				if err := do(ctx, h, i); err != nil {
					return fmt.Errorf("host %d, address %d: %w", h, i, err)
				}
			}
			return nil
		})
	}
	return g.Wait()
}

func TestSixteenHosts(t *testing.T) {
	const addresses = 10_000
	all, store := crowd(t)
	p := pool("10.6.0.0/16")
	ctx := t.Context()
	got := make([]netip.Addr, addresses)
	owner := func(i int) string { return fmt.Sprintf("host-%d/%064x", i%hosts, i) }

	began := time.Now()
	err := everyHost(ctx, addresses, func(ctx context.Context, h, i int) (err error) {
		got[i], err = all[h].Allocate(ctx, p, owner(i))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d allocations in %v: %.0f/s", addresses, time.Since(began), addresses/time.Since(began).Seconds())

	seen := map[netip.Addr]int{}
	for i, x := range got {
		if other, twice := seen[x]; twice {
			t.Fatalf("%s is both %s's and %s's", x, owner(i), owner(other))
		}
		seen[x] = i
	}
	listed, err := all[0].List(ctx, p.Subnet)
	if err != nil || len(listed) != addresses {
		t.Fatalf("List gives %d addresses, %v; want %d", len(listed), err, addresses)
	}
	for _, x := range listed {
		if i, ok := seen[x.Addr]; !ok || owner(i) != x.Owner {
			t.Fatalf("List gives %v, which nobody was given", x)
		}
	}

	began = time.Now()
	err = everyHost(ctx, addresses, func(ctx context.Context, h, i int) error {
		return all[h].Release(ctx, p, owner(i))
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d releases in %v: %.0f/s", addresses, time.Since(began), addresses/time.Since(began).Seconds())
	mustBeEmpty(t, store)
}

// A subnet too small for the hosts to have blocks of their own: all fight over
// the same, and still fill it to the last address.
func TestSixteenHostsOneBlock(t *testing.T) {
	all, _ := crowd(t)
	p := pool("10.6.0.0/25")
	const room = 125
	seen := make([]netip.Addr, room)
	err := everyHost(t.Context(), room, func(ctx context.Context, h, i int) (err error) {
		seen[i], err = all[h].Allocate(ctx, p, fmt.Sprint(i))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	once := map[netip.Addr]bool{}
	for _, x := range seen {
		once[x] = true
	}
	if len(once) != room {
		t.Fatalf("%d different addresses of %d", len(once), room)
	}
}

// BenchmarkAllocate16 measures 16 hosts that allocate at once on one Consul.
func BenchmarkAllocate16(b *testing.B) {
	all, _ := crowd(b)
	p := pool("10.0.0.0/12")
	b.ResetTimer()
	err := everyHost(b.Context(), b.N, func(ctx context.Context, h, i int) error {
		_, err := all[h].Allocate(ctx, p, fmt.Sprintf("host-%d/%064x", h, i))
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "allocs/s")
}

// BenchmarkAllocate measures one host alone on the embedded store.
func BenchmarkAllocate(b *testing.B) {
	a := ipam.New(openEmbedded(b), "h1")
	p := pool("10.0.0.0/12")
	for i := 0; b.Loop(); i++ {
		if _, err := a.Allocate(b.Context(), p, fmt.Sprintf("h1/%064x", i)); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "allocs/s")
}
