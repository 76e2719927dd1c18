package network_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"

	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/agent/state"
)

const rounds = 100

// atOnce runs n calls at the same moment and waits for all.
func atOnce(n int, call func(i int)) {
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			<-start
			call(i)
		})
	}
	close(start)
	wg.Wait()
}

type result struct {
	rec     network.Record
	created bool
	err     error
}

func race(ctx context.Context, store state.Store, names [2]string, subnets [2]netip.Prefix) [2]result {
	var got [2]result
	atOnce(2, func(i int) {
		m := network.New(network.Config{Store: store})
		got[i].rec, got[i].created, got[i].err = m.Create(ctx, network.Spec{Name: names[i], Subnet: subnets[i]})
	})
	return got
}

func TestSameNameAtOnce(t *testing.T) {
	everyStore(t, func(t *testing.T, store state.Store) {
		m := network.New(network.Config{Store: store})
		for i := range rounds {
			other := prefix("10.7.0.0/16")
			if i%2 == 0 {
				other = noSubnet
			}
			got := race(t.Context(), store, [2]string{"web", "web"}, [2]netip.Prefix{prefix("10.6.0.0/16"), other})
			switch {
			case i%2 == 0: // both can have the same
				if got[0].err == nil && (got[1].err != nil || got[0].rec != got[1].rec || got[0].created == got[1].created) {
					t.Fatalf("round %d: %+v", i, got)
				}
				if got[0].err != nil && (!errors.Is(got[0].err, network.ErrExists) || !got[1].created) {
					t.Fatalf("round %d: %+v", i, got)
				}
			case got[0].created == got[1].created:
				t.Fatalf("round %d: not one winner: %+v", i, got)
			default:
				for _, r := range got {
					if !r.created && !errors.Is(r.err, network.ErrExists) {
						t.Fatalf("round %d: the loser heard %v", i, r.err)
					}
				}
			}
			if err := m.Delete(t.Context(), "web"); err != nil {
				t.Fatal(err)
			}
			if left := keys(t, store); len(left) != 0 {
				t.Fatalf("left behind: %v", left)
			}
		}
	})
}

func TestSameVLANAtOnce(t *testing.T) {
	everyStore(t, func(t *testing.T, store state.Store) {
		m := network.New(network.Config{Store: store})
		for i := range rounds {
			got := race(t.Context(), store, [2]string{"a", "b"}, [2]netip.Prefix{})
			a, b := got[0].rec, got[1].rec
			if got[0].err != nil || got[1].err != nil || a.VLAN == b.VLAN || a.VNI == b.VNI || a.Subnet.Overlaps(b.Subnet) || a.VLAN+b.VLAN != 3 {
				t.Fatalf("round %d: %+v", i, got)
			}
			atOnce(2, func(int) { // both delete both: whoever is late finds it done
				for _, name := range []string{"a", "b"} {
					if err := m.Delete(t.Context(), name); err != nil && !errors.Is(err, network.ErrNotFound) {
						t.Errorf("round %d: %v", i, err)
					}
				}
			})
			if left := keys(t, store); len(left) != 0 {
				t.Fatalf("left behind: %v", left)
			}
		}
	})
}

func TestOverlapAtOnce(t *testing.T) {
	everyStore(t, func(t *testing.T, store state.Store) {
		m := network.New(network.Config{Store: store})
		for i := range rounds {
			got := race(t.Context(), store, [2]string{"a", "b"}, [2]netip.Prefix{prefix("10.6.0.0/16"), prefix("10.6.128.0/17")})
			if got[0].created == got[1].created {
				t.Fatalf("round %d: not one winner: %+v", i, got)
			}
			for j, r := range got {
				if r.created {
					if err := m.Delete(t.Context(), r.rec.ID); err != nil {
						t.Fatal(err)
					}
				} else if !errors.Is(r.err, network.ErrOverlap) {
					t.Fatalf("round %d: loser %d heard %v", i, j, r.err)
				}
			}
		}
	})
}

func TestDefaultAtOnce(t *testing.T) {
	everyStore(t, func(t *testing.T, store state.Store) {
		const hosts = 8
		for range rounds / 10 {
			var got [hosts]network.Record
			atOnce(hosts, func(i int) {
				m := network.New(network.Config{Store: store, Routes: routes("h", fmt.Sprintf("10.%d.0.0/16", i+1))})
				rec, err := m.EnsureDefault(t.Context())
				if err != nil {
					t.Error(err)
				}
				got[i] = rec
			})
			for _, rec := range got {
				if rec != got[0] {
					t.Fatalf("hosts disagree: %+v", got)
				}
			}
			if err := network.New(network.Config{Store: store}).Delete(t.Context(), "default"); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestDeleteAgainstPublish: whatever the order, there is never an endpoint on a
// network that is gone, and a deletion that was refused leaves the network whole.
func TestDeleteAgainstPublish(t *testing.T) {
	everyStore(t, func(t *testing.T, store state.Store) {
		ctx := t.Context()
		m := network.New(network.Config{Store: store})
		deleted, refused := 0, 0
		for i := range rounds {
			web := mustCreate(t, m, "web", "10.6.0.0/16")
			var deletions [2]error
			var published error
			key := network.EndpointsKey("web", "host-1")
			atOnce(3, func(who int) {
				if who < 2 {
					deletions[who] = m.Delete(ctx, "web")
					return
				}
				rec := web
				for range i % 4 { // publish earlier and later
					if got, err := m.Get(ctx, "web"); err == nil {
						rec = got
					}
				}
				published = store.Txn(ctx, []state.Op{
					{Kind: state.OpCheck, Key: network.Key("web"), Version: rec.Version},
					{Kind: state.OpCAS, Key: key, Value: []byte(`{"version":1,"endpoints":[{}]}`)},
				})
			})
			if published != nil && !errors.Is(published, state.ErrConflict) {
				t.Fatal(published)
			}
			_, err := m.Get(ctx, "web")
			if published == nil {
				refused++
				if err != nil {
					t.Fatalf("round %d: an endpoint is on a network that is gone: %v", i, err)
				}
				for _, d := range deletions {
					if !errors.Is(d, network.ErrInUse) {
						t.Fatalf("round %d: Delete = %v, want ErrInUse", i, d)
					}
				}
				e, err := store.Get(ctx, key)
				if err != nil {
					t.Fatal(err)
				}
				if err := store.Txn(ctx, []state.Op{{Kind: state.OpDelete, Key: key, Version: e.Version}}); err != nil {
					t.Fatal(err)
				}
				if err := m.Delete(ctx, "web"); err != nil {
					t.Fatal(err)
				}
			} else {
				deleted++
				if !errors.Is(err, network.ErrNotFound) {
					t.Fatalf("round %d: deleted, and yet: %v", i, err)
				}
			}
			if left := keys(t, store); len(left) != 0 {
				t.Fatalf("left behind: %v", left)
			}
		}
		t.Logf("%d deleted, %d refused", deleted, refused)
	})
}
