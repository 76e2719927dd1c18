package ipam_test

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/socketplane/socketplane/agent/state/statetest"
	"github.com/socketplane/socketplane/ipam"
)

// TestRange: what is chosen is from the range, whoever chose before without one;
// what is asked for by name may be from anywhere.
func TestRange(t *testing.T) {
	for _, c := range []struct {
		subnet, within string
		room           int
	}{
		{"10.6.0.0/24", "10.6.0.0/30", 2}, // the network and the gateway are in it
		{"10.6.0.0/24", "10.6.0.96/29", 8},
		{"10.6.0.0/24", "10.6.0.255/32", 0},
		{"10.6.0.0/24", "10.6.0.9/32", 1},
		{"10.6.0.0/16", "10.6.128.0/24", 256},
		{"10.6.0.0/29", "10.6.0.0/29", 5},
	} {
		t.Run(c.within, func(t *testing.T) {
			store := statetest.New()
			whole := pool(c.subnet)
			part := whole
			part.Range = netip.MustParsePrefix(c.within)
			hosts := []*ipam.Allocator{ipam.New(store, "h1"), ipam.New(store, "h2")}
			first := mustAllocate(t, hosts[0], whole, "without a range")
			room := c.room
			if part.Range.Contains(first) {
				room--
			}
			seen := map[netip.Addr]bool{first: true}
			for i := range room {
				got := mustAllocate(t, hosts[i%2], part, fmt.Sprint(i))
				if seen[got] || !part.Range.Contains(got) {
					t.Fatalf("%s is outside, or was given twice", got)
				}
				seen[got] = true
			}
			for _, h := range hosts {
				if got, err := h.Allocate(t.Context(), part, "more"); !errors.Is(err, ipam.ErrExhausted) {
					t.Fatalf("a full range gave %s, %v", got, err)
				}
			}
			if c.subnet == "10.6.0.0/24" {
				if err := hosts[1].AllocateAddr(t.Context(), part, addr("10.6.0.77"), "by name"); err != nil {
					t.Error(err)
				}
				mustAllocate(t, hosts[1], whole, "more")
			}
		})
	}
	for _, bad := range []string{"10.7.0.0/24", "10.6.0.0/8", "10.6.0.1/24", "fd00::/64"} {
		p := pool("10.6.0.0/16")
		p.Range = netip.MustParsePrefix(bad)
		if _, err := ipam.New(statetest.New(), "h1").Allocate(t.Context(), p, "x"); err == nil {
			t.Errorf("range %s passed", bad)
		}
	}
}
