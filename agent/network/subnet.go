package network

import (
	"fmt"
	"iter"
	"net/netip"
)

// occupied is a prefix that a new network may not overlap, with its holder: a network, a
// host's route, or a reservation. Only the field of that holder is set.
type occupied struct {
	prefix   netip.Prefix
	network  string
	host     string
	reserved bool
}

// String returns a text for messages, such as: network "web" (10.6.128.0/17).
func (o occupied) String() string {
	if o.reserved {
		return fmt.Sprintf("%s, which is reserved for a network that Docker is making", o.prefix)
	}
	if o.network != "" {
		return fmt.Sprintf("network %q (%s)", o.network, o.prefix)
	}
	return fmt.Sprintf("route %s of host %q", o.prefix, o.host)
}

// overlapping returns the first entry that overlaps subnet.
func overlapping(subnet netip.Prefix, taken []occupied) (occupied, bool) {
	for _, o := range taken {
		if o.prefix.Overlaps(subnet) {
			return o, true
		}
	}
	return occupied{}, false
}

// freeSubnet returns the first candidate that overlaps nothing.
func freeSubnet(taken []occupied) (netip.Prefix, bool) {
	for subnet := range candidates() {
		if _, clash := overlapping(subnet, taken); !clash {
			return subnet, true
		}
	}
	return netip.Prefix{}, false
}

// candidates yields the subnets for networks without a requested subnet. They are the
// private ranges of RFC 1918, as /16s where possible. 10.0.0.0/16 is the last of its
// range, because most sites use it first.
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

// matters reports whether networks must avoid a host's route. A default route does not
// matter, even if a VPN splits it into two halves.
func (r HostRoute) matters() bool {
	return r.Prefix.IsValid() && r.Prefix.Addr().Is4() && r.Prefix.Bits() > 1
}
