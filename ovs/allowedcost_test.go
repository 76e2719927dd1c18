package ovs

import (
	"fmt"
	"net/netip"
	"testing"
)

// crowded is a network with n endpoints on another host, each with the given number of
// allowed addresses, and one endpoint here.
func crowded(n, allowed int) Forwarding {
	at := func(a byte, i int) netip.Addr { return netip.AddrFrom4([4]byte{10, a, byte(i >> 8), byte(i)}) }
	text := func(i int) string { return fmt.Sprintf("02:42:0a:00:%02x:%02x", byte(i>>8), byte(i)) }
	g := Segment{VNI: 10001, Subnet: netip.MustParsePrefix("10.0.0.0/8"), Gateway: netip.MustParseAddr("10.255.0.1"), GatewayMAC: "02:42:0a:ff:00:01", GatewayPort: 3}
	g.Local = []Local{{OFPort: 1, MAC: text(1), IP: at(0, 1), Allowed: []netip.Prefix{netip.MustParsePrefix("10.9.0.0/24")}}}
	for i := range n {
		r := Remote{MAC: text(i + 2), IP: at(0, i+2), OFPort: 5}
		for j := range allowed {
			r.Allowed = append(r.Allowed, netip.PrefixFrom(at(1, i*allowed+j), 32))
		}
		g.Remote = append(g.Remote, r)
	}
	return Forwarding{Self: netip.MustParseAddr("198.18.0.1"), Segments: []Segment{g}, Peers: []Peer{{ID: "p", VTEP: netip.MustParseAddr("198.18.0.2"), OFPort: 5}}}
}

// BenchmarkFlows measures the rendering of a network with many endpoints on another host.
func BenchmarkFlows(b *testing.B) {
	for _, c := range []struct{ endpoints, allowed int }{{5000, 0}, {1350, 16}} {
		b.Run(fmt.Sprintf("%dx%d", c.endpoints, c.allowed), func(b *testing.B) {
			f := crowded(c.endpoints, c.allowed)
			for b.Loop() {
				f.Flows()
			}
		})
	}
}

// TestCandidates: a request for a prefix goes to every endpoint that is allowed all of it,
// also by a shorter prefix, and to no other.
func TestCandidates(t *testing.T) {
	list := func(texts ...string) (all []netip.Prefix) {
		for _, s := range texts {
			all = append(all, netip.MustParsePrefix(s))
		}
		return all
	}
	g := Segment{
		Subnet: netip.MustParsePrefix("10.6.0.0/16"),
		Local:  []Local{{OFPort: 12, Allowed: list("10.6.1.0/24")}, {OFPort: 2, Allowed: list("10.6.1.7/32", "10.99.0.0/16")}},
		Remote: []Remote{
			{OFPort: 5, Allowed: list("10.6.1.0/24", "10.6.1.7/32")},
			{OFPort: 5, Allowed: list("10.6.0.0/17")},
			{OFPort: 6, Allowed: list("10.6.1.8/29")},
			{OFPort: 0, Allowed: list("10.6.1.7/32", "10.6.3.0/24")},
		},
	}
	index := g.sharers()
	for p, want := range map[string]string{
		"10.6.1.7/32": "[output:2 output:12] [output:5]",
		"10.6.1.0/24": "[output:12] [output:5]",
		"10.6.1.8/29": "[output:12] [output:5 output:6]",
		"10.6.0.0/17": "[] [output:5]",
	} {
		here, there := index.candidates(g.Subnet, netip.MustParsePrefix(p))
		if got := fmt.Sprintf("%v %v", here, there); got != want {
			t.Errorf("%s: %s, want %s", p, got, want)
		}
	}
	if len(index) != 4 {
		t.Errorf("%d prefixes are asked for, want 4", len(index))
	}
}
