package network

import (
	"fmt"
	"iter"
	"net/netip"
)

// occupied is a prefix that a new network may not overlap, with what holds it: a
// network, a host's route, or a reservation. The other fields are empty.
type occupied struct {
	prefix   netip.Prefix
	network  string
	host     string
	reserved bool
}

// String is for people: network "web" (10.6.128.0/17).
func (o occupied) String() string {
	if o.reserved {
		return fmt.Sprintf("%s, which is reserved for a network that Docker is making", o.prefix)
	}
	if o.network != "" {
		return fmt.Sprintf("network %q (%s)", o.network, o.prefix)
	}
	return fmt.Sprintf("route %s of host %q", o.prefix, o.host)
}

// overlapping finds what overlaps a subnet.
func overlapping(subnet netip.Prefix, taken []occupied) (occupied, bool) {
	for _, o := range taken {
		if o.prefix.Overlaps(subnet) {
			return o, true
		}
	}
	return occupied{}, false
}

// freeSubnet gives the first candidate that overlaps nothing.
func freeSubnet(taken []occupied) (netip.Prefix, bool) {
	for subnet := range candidates() {
		if _, clash := overlapping(subnet, taken); !clash {
			return subnet, true
		}
	}
	return netip.Prefix{}, false
}

// candidates yields the subnets that a network may be given when none was asked
// for: the private ranges of RFC 1918, in /16s as long as there are any, and
// 10.0.0.0/16 last of its range because that is where most sites begin.
func candidates() iter.Seq[netip.Prefix] {
	return func(yield func(netip.Prefix) bool) {
		for i := 1; i <= 256; i++ {
			if !yield(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i), 0, 0}), 16)) {
				return
			}
		}
		for i := 16; i < 32; i++ {
			if !yield(netip.PrefixFrom(netip.AddrFrom4([4]byte{172, byte(i), 0, 0}), 16)) {
				return
			}
		}
		for i := range 256 {
			if !yield(netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, byte(i), 0}), 24)) {
				return
			}
		}
	}
}

// matters says whether a host's route keeps networks away. A default route does
// not, also where a VPN has split it into two halves.
func (r HostRoute) matters() bool {
	return r.Prefix.IsValid() && r.Prefix.Addr().Is4() && r.Prefix.Bits() > 1
}
