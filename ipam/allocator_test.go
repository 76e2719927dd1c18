package ipam_test

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/agent/state/statetest"
	"github.com/socketplane/socketplane/ipam"
)

func pool(cidr string) ipam.Pool {
	p := netip.MustParsePrefix(cidr)
	return ipam.Pool{Subnet: p, Gateway: p.Addr().Next()}
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// eachStore runs a test on every store that needs no server.
func eachStore(t *testing.T, test func(t *testing.T, store state.Store)) {
	t.Run("memory", func(t *testing.T) { test(t, statetest.New()) })
	t.Run("embedded", func(t *testing.T) { test(t, openEmbedded(t)) })
}

func mustAllocate(t *testing.T, a *ipam.Allocator, p ipam.Pool, owner string) netip.Addr {
	t.Helper()
	got, err := a.Allocate(t.Context(), p, owner)
	if err != nil {
		t.Fatalf("Allocate(%s): %v", owner, err)
	}
	return got
}

func mustBeEmpty(t *testing.T, store state.Store) {
	t.Helper()
	left, err := store.List(t.Context(), state.Prefix)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range left {
		t.Errorf("left behind: %s = %s", e.Key, e.Value)
	}
}

func TestAllocate(t *testing.T) {
	eachStore(t, func(t *testing.T, store state.Store) {
		a := ipam.New(store, "h1")
		p := pool("10.6.0.0/16")
		if got := mustAllocate(t, a, p, "a"); got != addr("10.6.0.2") {
			t.Errorf("first address is %s, want 10.6.0.2", got)
		}
		if got := mustAllocate(t, a, p, "a"); got != addr("10.6.0.2") {
			t.Errorf("same owner again got %s, want 10.6.0.2", got)
		}
		if got := mustAllocate(t, a, p, "b"); got != addr("10.6.0.3") {
			t.Errorf("second address is %s, want 10.6.0.3", got)
		}
		e, err := store.Get(t.Context(), "socketplane/v1/ipam/10.6.0.0-16/0")
		if err != nil {
			t.Fatal(err)
		}
		want := `{"version":1,"host":"h1","owners":{"10.6.0.2":"a","10.6.0.3":"b"}}`
		if string(e.Value) != want {
			t.Errorf("block is %s, want %s", e.Value, want)
		}
		if err := a.Release(t.Context(), p, "b"); err != nil {
			t.Fatal(err)
		}
		if got := mustAllocate(t, a, p, "c"); got != addr("10.6.0.4") {
			t.Errorf("after a release the next is %s, want 10.6.0.4, not the one just released", got)
		}

		restarted := ipam.New(store, "h1")
		if got := mustAllocate(t, restarted, p, "c"); got != addr("10.6.0.4") {
			t.Errorf("after a restart the owner got %s, want its 10.6.0.4", got)
		}
		for _, owner := range []string{"a", "b", "c", "c", "never"} {
			if err := restarted.Release(t.Context(), p, owner); err != nil {
				t.Errorf("Release(%s): %v", owner, err)
			}
		}
		mustBeEmpty(t, store)
	})
}

func TestAllocateAddr(t *testing.T) {
	eachStore(t, func(t *testing.T, store state.Store) {
		p := pool("10.6.0.0/16")
		one, two := ipam.New(store, "h1"), ipam.New(store, "h2")
		ctx := t.Context()
		if err := one.AllocateAddr(ctx, p, addr("10.6.200.9"), "a"); err != nil {
			t.Fatal(err)
		}
		if err := two.AllocateAddr(ctx, p, addr("10.6.200.10"), "b"); err != nil {
			t.Fatalf("in another host's block: %v", err)
		}
		for _, c := range []struct {
			addr, owner string
			want        error
		}{
			{"10.6.200.9", "a", nil},
			{"10.6.200.9", "x", ipam.ErrTaken},
			{"10.6.200.10", "x", ipam.ErrTaken},
			{"10.6.200.11", "a", ipam.ErrOwnerHas},
			{"10.7.0.1", "x", ipam.ErrOutside},
			{"fd00::1", "x", ipam.ErrOutside},
			{"::ffff:10.6.0.9", "x", ipam.ErrOutside},
			{"10.6.0.0", "x", ipam.ErrReserved},
			{"10.6.0.1", "x", ipam.ErrReserved},
			{"10.6.255.255", "x", ipam.ErrReserved},
			{"10.6.1.0", "fine", nil},
			{"10.6.1.255", "fine too", nil},
		} {
			if err := one.AllocateAddr(ctx, p, addr(c.addr), c.owner); !errors.Is(err, c.want) {
				t.Errorf("AllocateAddr(%s, %s) = %v, want %v", c.addr, c.owner, err, c.want)
			}
		}
		taken, ok := errors.AsType[*ipam.TakenError](one.AllocateAddr(ctx, p, addr("10.6.200.10"), "x"))
		if !ok || taken.Owner != "b" {
			t.Errorf("TakenError is %+v, want owner b", taken)
		}
		// What another released is free, whatever was believed of it.
		if err := two.Release(ctx, p, "b"); err != nil {
			t.Fatal(err)
		}
		if err := one.AllocateAddr(ctx, p, addr("10.6.200.10"), "x"); err != nil {
			t.Errorf("after its release: %v", err)
		}
	})
}

func TestExhausted(t *testing.T) {
	for _, c := range []struct {
		cidr string
		room int
	}{{"10.6.0.0/30", 1}, {"10.6.0.8/29", 5}, {"10.6.0.0/26", 61}, {"10.6.1.0/24", 253}} {
		t.Run(c.cidr, func(t *testing.T) {
			eachStore(t, func(t *testing.T, store state.Store) {
				p := pool(c.cidr)
				hosts := []*ipam.Allocator{ipam.New(store, "h1"), ipam.New(store, "h2"), ipam.New(store, "h3")}
				seen := map[netip.Addr]bool{}
				for i := range c.room {
					got := mustAllocate(t, hosts[i%len(hosts)], p, fmt.Sprint(i))
					if seen[got] || !p.Subnet.Contains(got) {
						t.Fatalf("%s handed out twice or outside", got)
					}
					seen[got] = true
				}
				for _, h := range hosts {
					if got, err := h.Allocate(t.Context(), p, "more"); !errors.Is(err, ipam.ErrExhausted) {
						t.Fatalf("Allocate on a full subnet = %s, %v", got, err)
					}
				}
				if err := hosts[0].Release(t.Context(), p, "0"); err != nil {
					t.Fatal(err)
				}
				mustAllocate(t, hosts[2], p, "0") // another host finds the one that was released
				for i := range c.room {
					if err := hosts[2].Release(t.Context(), p, fmt.Sprint(i)); err != nil {
						t.Fatal(err)
					}
				}
				mustBeEmpty(t, store)
			})
		})
	}
}

func TestNetworkMadeAnew(t *testing.T) {
	eachStore(t, func(t *testing.T, store state.Store) {
		p := pool("10.6.0.0/24")
		a, other := ipam.New(store, "h1"), ipam.New(store, "h2")
		for i := range 70 {
			mustAllocate(t, a, p, fmt.Sprint(i))
		}
		if err := store.Txn(t.Context(), []state.Op{{Kind: state.OpDeleteTree, Key: ipam.Prefix(p.Subnet)}}); err != nil {
			t.Fatal(err)
		}
		theirs := mustAllocate(t, other, p, "theirs")
		seen := map[netip.Addr]bool{theirs: true}
		for i := range 70 {
			got := mustAllocate(t, a, p, fmt.Sprint(i))
			if seen[got] {
				t.Fatalf("%s handed out twice", got)
			}
			seen[got] = true
		}
		all, err := a.List(t.Context(), p.Subnet)
		if err != nil || len(all) != 71 {
			t.Fatalf("List gives %d, %v; want 71", len(all), err)
		}
		a.Forget(p.Subnet)
		if err := store.Txn(t.Context(), []state.Op{{Kind: state.OpDeleteTree, Key: ipam.Prefix(p.Subnet)}}); err != nil {
			t.Fatal(err)
		}
		if got := mustAllocate(t, a, p, "first"); got != addr("10.6.0.2") {
			t.Errorf("first of a forgotten subnet is %s, want 10.6.0.2", got)
		}
	})
}

func TestList(t *testing.T) {
	store := statetest.New()
	p := pool("10.6.0.0/16")
	a := ipam.New(store, "h1")
	for _, s := range []string{"10.6.3.1", "10.6.0.200", "10.6.0.20"} {
		if err := a.AllocateAddr(t.Context(), p, addr(s), "at "+s); err != nil {
			t.Fatal(err)
		}
	}
	mustAllocate(t, a, pool("10.6.0.0/17"), "of another subnet")
	got, err := a.List(t.Context(), p.Subnet)
	if err != nil {
		t.Fatal(err)
	}
	want := []ipam.Allocation{
		{Addr: addr("10.6.0.20"), Owner: "at 10.6.0.20"},
		{Addr: addr("10.6.0.200"), Owner: "at 10.6.0.200"},
		{Addr: addr("10.6.3.1"), Owner: "at 10.6.3.1"},
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Error(diff)
	}
}

func TestArguments(t *testing.T) {
	a := ipam.New(statetest.New(), "h1")
	for _, cidr := range []string{"10.6.0.0/31", "10.6.0.0/32", "10.6.0.1/16", "0.0.0.0/0", "fd00::/64"} {
		p := ipam.Pool{Subnet: netip.MustParsePrefix(cidr)}
		if _, err := a.Allocate(t.Context(), p, "x"); err == nil {
			t.Errorf("Allocate of %s passed", cidr)
		}
		if _, err := a.List(t.Context(), p.Subnet); err == nil {
			t.Errorf("List of %s passed", cidr)
		}
	}
	if _, err := a.Allocate(t.Context(), ipam.Pool{}, "x"); err == nil {
		t.Error("Allocate of the zero pool passed")
	}
	if _, err := a.Allocate(t.Context(), ipam.Pool{Subnet: netip.MustParsePrefix("10.6.0.0/16"), Gateway: addr("10.7.0.1")}, "x"); err == nil {
		t.Error("Allocate with a gateway outside passed")
	}
	for _, owner := range []string{"", "\xff", string(make([]byte, 257))} {
		if err := a.Release(t.Context(), pool("10.6.0.0/16"), owner); err == nil {
			t.Errorf("owner %q passed", owner)
		}
	}
}

func TestTransfer(t *testing.T) {
	eachStore(t, func(t *testing.T, store state.Store) {
		a, other := ipam.New(store, "h1"), ipam.New(store, "h2")
		p := pool("10.6.0.0/24")
		got := mustAllocate(t, a, p, "hold")
		for range 2 { // the same again is done already
			if err := a.Transfer(t.Context(), p, got, "hold", "web"); err != nil {
				t.Fatal(err)
			}
		}
		if again := mustAllocate(t, other, p, "web"); again != got {
			t.Errorf("web has %s, want %s", again, got)
		}
		var taken *ipam.TakenError
		if err := other.Transfer(t.Context(), p, got, "hold", "else"); !errors.As(err, &taken) || taken.Owner != "web" {
			t.Errorf("from one who does not have it: %v", err)
		}
		if err := a.Transfer(t.Context(), p, addr("10.6.0.77"), "hold", "else"); !errors.Is(err, ipam.ErrTaken) {
			t.Errorf("of what nobody has: %v", err)
		}
		if err := a.Transfer(t.Context(), p, addr("10.7.0.1"), "hold", "else"); !errors.Is(err, ipam.ErrOutside) {
			t.Errorf("outside: %v", err)
		}
		if err := a.Release(t.Context(), p, "web"); err != nil {
			t.Fatal(err)
		}
		mustBeEmpty(t, store)
	})
}
