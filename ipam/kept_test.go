package ipam_test

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/agent/state/statetest"
	"github.com/socketplane/socketplane/ipam"
)

// TestKeep: addresses that are kept with a network's creation are given to nobody, and
// go with the subnet.
func TestKeep(t *testing.T) {
	store := statetest.New()
	p := pool("10.6.0.0/25")
	keep := func(owners map[netip.Addr]string) ([]state.Op, error) {
		t.Helper()
		entries, err := store.List(t.Context(), ipam.Prefix(p.Subnet))
		if err != nil {
			t.Fatal(err)
		}
		return ipam.Keep(p, "h1", owners, entries)
	}
	wanted := map[netip.Addr]string{addr("10.6.0.2"): "network/10.6.0.2", addr("10.6.0.3"): "network/10.6.0.3", addr("10.6.0.100"): "network/10.6.0.100"}
	first := ipam.New(store, "h1")
	mustAllocate(t, first, p, "left by an earlier network of the subnet") // 10.6.0.2
	if _, err := keep(wanted); !errors.Is(err, ipam.ErrTaken) {
		t.Errorf("one that is taken: %v", err)
	}
	if err := first.Release(t.Context(), p, "left by an earlier network of the subnet"); err != nil {
		t.Fatal(err)
	}
	if err := first.AllocateAddr(t.Context(), p, addr("10.6.0.9"), "left by another"); err != nil {
		t.Fatal(err)
	}
	ops, err := keep(wanted)
	if err != nil || len(ops) != 2 {
		t.Fatalf("%v, %v", ops, err)
	}
	if err := store.Txn(t.Context(), ops); err != nil {
		t.Fatal(err)
	}
	if ops, err := keep(wanted); err != nil || len(ops) != 0 {
		t.Errorf("again: %v, %v", ops, err)
	}
	given := map[netip.Addr]bool{}
	for i, h := range []*ipam.Allocator{first, ipam.New(store, "h2")} { // the first one's view is of before
		for n := range 61 - i { // of 128: all but three ends, three kept and one left
			got := mustAllocate(t, h, p, string(rune('a'+i))+string(rune('a'+n)))
			if _, kept := wanted[got]; kept || given[got] {
				t.Errorf("%s was given", got)
			}
			given[got] = true
		}
	}
	if _, err := first.Allocate(t.Context(), p, "one more"); !errors.Is(err, ipam.ErrExhausted) {
		t.Errorf("one more: %v", err)
	}
	if err := first.AllocateAddr(t.Context(), p, addr("10.6.0.3"), "by name"); !errors.Is(err, ipam.ErrTaken) {
		t.Errorf("by name: %v", err)
	}
	for bad, want := range map[string]error{
		"10.7.0.1": ipam.ErrOutside, "10.6.0.0": ipam.ErrReserved, "10.6.0.1": ipam.ErrReserved, "10.6.0.127": ipam.ErrReserved,
	} {
		if _, err := keep(map[netip.Addr]string{addr(bad): "x"}); !errors.Is(err, want) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
