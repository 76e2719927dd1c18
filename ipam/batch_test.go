package ipam_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"

	"golang.org/x/sync/errgroup"

	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/agent/state/statetest"
	"github.com/socketplane/socketplane/ipam"
)

// gated is a store whose writes wait until the gate is open.
type gated struct {
	*counted
	gate chan struct{}
}

func newGated() *gated {
	return &gated{counted: &counted{Store: statetest.New(), calls: map[string]int{}}, gate: make(chan struct{})}
}

func (s *gated) CompareAndSet(ctx context.Context, key string, value []byte, version uint64) (uint64, error) {
	select {
	case <-s.gate:
		return s.counted.CompareAndSet(ctx, key, value, version)
	case <-ctx.Done():
		return 0, fmt.Errorf("set %q: %w: %w", key, state.ErrUnavailable, context.Cause(ctx))
	}
}

// A hundred callers at once cost two rounds of writes: what came in during the
// first is written together in the second, each of the two blocks once a round.
func TestManyAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newGated()
		a, p := ipam.New(store, "h1"), pool("10.6.0.0/16")
		var g errgroup.Group
		var mu sync.Mutex
		seen := map[netip.Addr]bool{}
		for i := range 100 {
			g.Go(func() error {
				addr, err := a.Allocate(t.Context(), p, fmt.Sprint(i))
				mu.Lock()
				defer mu.Unlock()
				seen[addr] = true
				return err
			})
		}
		synctest.Wait()
		close(store.gate)
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		if len(seen) != 100 {
			t.Errorf("%d different addresses of 100", len(seen))
		}
		if n := store.calls["cas"]; n > 3 {
			t.Errorf("%d writes, want 3 at the most", n)
		}
		store.gate = make(chan struct{})
		for i := range 100 {
			g.Go(func() error { return a.Release(t.Context(), p, fmt.Sprint(i)) })
		}
		synctest.Wait()
		close(store.gate)
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		if n := store.calls["cas"] + store.calls["delete"]; n > 3+4 {
			t.Errorf("%d writes with the releases, want 3 and 4 at the most", n)
		}
		mustBeEmpty(t, store)
	})
}

// Whoever gives up while a write is under way is answered at once, and takes
// nothing from the others; what it was given can be released.
func TestOneGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newGated()
		a, p := ipam.New(store, "h1"), pool("10.6.0.0/16")
		var g errgroup.Group
		allocate := func(ctx context.Context, owner string) {
			g.Go(func() error {
				_, err := a.Allocate(ctx, p, owner)
				return err
			})
		}
		allocate(t.Context(), "first")
		synctest.Wait() // it is in the store
		allocate(t.Context(), "second")
		ctx, cancel := context.WithCancel(t.Context())
		gone := make(chan error, 2)
		go func() { _, err := a.Allocate(ctx, p, "queued"); gone <- err }()
		synctest.Wait() // both wait for the first
		cancel()
		if err := <-gone; !errors.Is(err, context.Canceled) {
			t.Errorf("who gave up in the queue hears %v", err)
		}
		store.gate <- struct{}{}
		synctest.Wait() // the second is in the store
		ctx, cancel = context.WithCancel(t.Context())
		allocate(t.Context(), "third")
		go func() { _, err := a.Allocate(ctx, p, "writing"); gone <- err }()
		synctest.Wait()
		store.gate <- struct{}{}
		synctest.Wait() // these two are
		cancel()
		if err := <-gone; !errors.Is(err, context.Canceled) {
			t.Errorf("who gave up during the write hears %v", err)
		}
		close(store.gate)
		if err := g.Wait(); err != nil {
			t.Error("the others:", err)
		}
		for _, owner := range []string{"first", "second", "third", "queued", "writing"} {
			if err := a.Release(t.Context(), p, owner); err != nil {
				t.Error(err)
			}
		}
		mustBeEmpty(t, store)
	})
}

// The last one that gives up ends the write, and hears the store's words.
func TestAllGiveUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := ipam.New(newGated(), "h1")
		ctx, cancel := context.WithCancel(t.Context())
		gone := make(chan error)
		go func() { _, err := a.Allocate(ctx, pool("10.6.0.0/16"), "a"); gone <- err }()
		synctest.Wait()
		cancel()
		if err := <-gone; !errors.Is(err, state.ErrUnavailable) {
			t.Errorf("%v, want what the store said", err)
		}
	})
}

// Two hosts with eight callers each do everything at once in a subnet that is too
// small: what each was told is what the store says in the end.
func TestEverythingAtOnce(t *testing.T) {
	store, p := statetest.New(), pool("10.6.0.0/25")
	var g errgroup.Group
	var mu sync.Mutex
	want := map[netip.Addr]string{}
	for h := range 2 {
		a := ipam.New(store, fmt.Sprint("h", h))
		for c := range 8 {
			g.Go(func() error {
				has := map[string]netip.Addr{}
				for i := range 300 {
					owner := fmt.Sprint("h", h, "/", c, "/", rand.N(10))
					addr := netip.AddrFrom4([4]byte{10, 6, 0, byte(2 + rand.N(120))})
					var err error
					switch rand.N(4) {
					case 0:
						if addr, err = a.Allocate(t.Context(), p, owner); err == nil {
							if old, had := has[owner]; had && old != addr {
								return fmt.Errorf("%s had %s and was given %s", owner, old, addr)
							}
							has[owner] = addr
						}
					case 1:
						if err = a.AllocateAddr(t.Context(), p, addr, owner); err == nil {
							has[owner] = addr
						}
					case 2:
						to := fmt.Sprint(owner, "/", i)
						if err = a.Transfer(t.Context(), p, has[owner], owner, to); err == nil && has[owner].IsValid() {
							has[to] = has[owner]
							delete(has, owner)
						} else if !has[owner].IsValid() {
							err = nil // of an address that is none
						}
					case 3:
						if err = a.Release(t.Context(), p, owner); err == nil {
							delete(has, owner)
						}
					}
					if err != nil && !errors.Is(err, ipam.ErrExhausted) && !errors.Is(err, ipam.ErrTaken) && !errors.Is(err, ipam.ErrOwnerHas) {
						return fmt.Errorf("%s: %w", owner, err)
					}
				}
				mu.Lock()
				defer mu.Unlock()
				for owner, addr := range has {
					if other, twice := want[addr]; twice {
						return fmt.Errorf("%s is both %s's and %s's", addr, owner, other)
					}
					want[addr] = owner
				}
				return nil
			})
		}
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	listed, err := ipam.New(store, "h3").List(t.Context(), p.Subnet)
	if err != nil || len(listed) != len(want) {
		t.Fatalf("the store has %d addresses, %v; the callers were told of %d", len(listed), err, len(want))
	}
	for _, x := range listed {
		if want[x.Addr] != x.Owner {
			t.Errorf("%s is %q's in the store, and %q was told so", x.Addr, x.Owner, want[x.Addr])
		}
	}
}
