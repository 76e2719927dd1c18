package ipam_test

import (
	"context"
	"errors"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/agent/state/statetest"
	"github.com/socketplane/socketplane/ipam"
)

// away is a store that nobody reaches.
type away struct{ state.Store }

func (away) List(context.Context, string) ([]state.Entry, error) { return nil, state.ErrUnavailable }

// TestListAll: it says of each subnet what List says, with one call for all.
func TestListAll(t *testing.T) {
	store := &counted{Store: statetest.New(), calls: map[string]int{}}
	a := ipam.New(store, "h1")
	subnets := []string{"10.6.0.0/16", "10.6.0.0/17", "10.6.0.0/24", "10.7.0.0/24", "10.60.0.0/16"}
	for _, cidr := range subnets[:4] {
		for _, owner := range []string{"a", "b"} {
			mustAllocate(t, a, pool(cidr), owner+" of "+cidr)
		}
	}
	if err := a.AllocateAddr(t.Context(), pool("10.6.0.0/16"), addr("10.6.9.9"), "far"); err != nil {
		t.Fatal(err)
	}
	for key, value := range map[string]string{
		"10.7.0.0-24/3": "x", "10.7.0.0-24/y": "x", "10.7.0.0-24/1/2": "x", // of a subnet
		"nonsense": "x", "10.7.0.0-24x/0": "x", "10.7.0.0": "x", // of none
	} {
		if _, err := store.CompareAndSet(t.Context(), ipam.BlocksPrefix+key, []byte(value), 0); err != nil {
			t.Fatal(err)
		}
	}
	clear(store.calls)
	all, err := a.ListAll(t.Context())
	if err != nil || store.calls["list"] != 1 || len(store.calls) != 1 {
		t.Fatalf("%v, %v", err, store.calls)
	}
	for _, cidr := range subnets {
		want, wantErr := a.List(t.Context(), netip.MustParsePrefix(cidr))
		got, gotErr := all.Of(netip.MustParsePrefix(cidr))
		if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Errorf("%s: %s", cidr, diff)
		}
		if bad := cidr == "10.7.0.0/24"; errors.Is(gotErr, ipam.ErrBadBlock) != bad || bad && gotErr.Error() != wantErr.Error() {
			t.Errorf("%s: %v, want %v", cidr, gotErr, wantErr)
		}
	}
	if _, err := all.Of(netip.MustParsePrefix("fd00::/64")); err == nil || errors.Is(err, ipam.ErrBadBlock) {
		t.Errorf("IPv6: %v", err)
	}
	if _, err := ipam.New(away{store}, "h1").ListAll(t.Context()); !errors.Is(err, state.ErrUnavailable) {
		t.Errorf("a store that is away: %v", err)
	}
}
