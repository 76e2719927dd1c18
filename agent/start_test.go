package agent

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/socketplane/socketplane/agent/link"
	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/ipam"
	"github.com/socketplane/socketplane/ovs"
)

// lists counts how often the store was listed since the calls were reset.
func (h *testHost) lists() int {
	n := 0
	for _, name := range h.calls.Names() {
		if name == "Store.List" {
			n++
		}
	}
	return n
}

// many writes the records of n networks, and gives their pools.
func (h *testHost) many(n int) (names []string, pools []ipam.Pool) {
	h.t.Helper()
	for i := range n {
		name := fmt.Sprintf("n%04d", i)
		subnet := netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 16, byte(i >> 6), byte(i << 2)}), 30)
		h.writeNetwork(name, subnet.String(), network.VNIBase+100+i, "")
		names, pools = append(names, name), append(pools, ipam.Pool{Subnet: subnet, Gateway: subnet.Addr().Next()})
	}
	return names, pools
}

// TestStartReadsAddressesOnce: what a start reads does not grow with the number of
// networks.
func TestStartReadsAddressesOnce(t *testing.T) {
	h := newTestHost(t)
	h.mustAttach("c1", "foo", "/ns/1")
	h.mustAttach("c2", "bar", "/ns/2")
	_, pools := h.many(200)
	// Half done by an earlier life: one without an endpoint, and one that the store lost.
	if _, err := h.Addresses.Allocate(t.Context(), pools[150], h.owner("nobody")); err != nil {
		t.Fatal(err)
	}
	h.remove(ipam.Prefix(netip.MustParsePrefix("10.7.0.0/29")))
	bad := ipam.Prefix(pools[20].Subnet) + "0"
	h.put(bad, "x")
	h.start()
	h.watch()
	h.calls.Reset()
	if err := h.Agent.converge(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if n := h.lists(); n > 10 {
		t.Errorf("the store was listed %d times for 202 networks", n)
	}
	for subnet, want := range map[string][]string{"10.6.0.0/16": {"c1"}, "10.7.0.0/29": {"c2"}, pools[150].Subnet.String(): nil} {
		list, err := h.Addresses.List(t.Context(), netip.MustParsePrefix(subnet))
		var got []string
		for _, al := range list {
			got = append(got, strings.TrimPrefix(al.Owner, h.id+"/"))
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("subnet %s: %q, %v; want %q", subnet, got, err, want)
		}
	}
	h.named("n0020", bad, "left alone")
}

// TestStartGoesOn: a start that fails half way, again and again, goes on where it
// was, and comes to its end.
func TestStartGoesOn(t *testing.T) {
	h := newTestHost(t)
	_, pools := h.many(40)
	for _, p := range pools {
		if _, err := h.Addresses.Allocate(t.Context(), p, h.owner("nobody")); err != nil {
			t.Fatal(err)
		}
	}
	h.start()
	for pass := 1; ; pass++ {
		h.watch()
		h.calls.Reset()
		h.calls.FailAt(30, false) // as when its time is over
		err := h.Agent.converge(t.Context(), true)
		h.calls.Reset()
		if h.isLoaded() {
			break
		}
		if err == nil || pass == 20 {
			t.Fatalf("after %d passes it has not begun: %v", pass, err)
		}
	}
	for _, p := range pools {
		if list, err := h.Addresses.List(t.Context(), p.Subnet); err != nil || len(list) != 0 {
			t.Errorf("subnet %s: %v, %v", p.Subnet, list, err)
		}
	}
}

// TestReturnReadsAddressesOnce: so does a host that was away, and uses many networks.
func TestReturnReadsAddressesOnce(t *testing.T) {
	h := newTestHost(t)
	names, pools := h.many(30)
	h.watch()
	for i, name := range names {
		h.mustAttach(fmt.Sprintf("c%d", i), name, fmt.Sprintf("/ns/%d", i))
	}
	h.remove(ipam.Prefix(pools[7].Subnet)) // its address was given up
	h.converge()
	h.calls.Reset()
	h.reclaim.Store(true)
	h.converge()
	if n := h.lists(); n > 5 {
		t.Errorf("the store was listed %d times for %d networks", n, len(names))
	}
	if list, err := h.Addresses.List(t.Context(), pools[7].Subnet); err != nil || len(list) != 1 || list[0].Owner != h.owner("c7") {
		t.Errorf("taken back: %v, %v", list, err)
	}
}

// TestStartAsksOnceForALostNetwork: a network that the store has lost is asked for
// once at a start, however many endpoints are on it.
func TestStartAsksOnceForALostNetwork(t *testing.T) {
	h := newTestHost(t)
	for i := range 30 {
		h.mustAttach(fmt.Sprintf("c%d", i), "foo", fmt.Sprintf("/ns/%d", i))
	}
	h.remove(network.Key("foo"))
	h.sw.Change(link.GatewayName("foo"), func(*ovs.Port) bool { return false }) // it would tell what the network was
	h.start()
	h.watch()
	h.calls.Reset()
	_ = h.Agent.converge(t.Context(), true) // the list is published in vain
	if !h.isLoaded() {
		t.Fatal("it has not begun")
	}
	n := 0
	for _, name := range h.calls.Names() {
		if name == "Store.Get" {
			n++
		}
	}
	if n > 10 {
		t.Errorf("%d reads of single keys for one network that is lost", n)
	}
}
