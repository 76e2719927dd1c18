package verdict

import (
	"github.com/socketplane/socketplane/agent/cluster"
)

// VXLAN over IPv4 adds to an inner IP packet: outer IPv4 20, UDP 8, VXLAN 8 (RFC 7348)
// and the inner Ethernet header 14 bytes. The IPv6 header has 40 bytes.
const (
	vxlanOverhead  = 50
	vxlanOverhead6 = 70
)

// LeastMTU is the smallest underlay MTU, in bytes, that counts: that of IPv6, RFC 8200. A
// host with less is ignored. Otherwise one record could make the packets of all
// containers arbitrarily small.
const LeastMTU = 1280

// leastInner is the smallest network MTU that records of other hosts can cause.
const leastInner = LeastMTU - vxlanOverhead

// MTUCounts reports whether a host's MTU counts for the MTU of the networks.
func MTUCounts(h cluster.Host) bool { return h.MTU-overhead(h) >= leastInner }

// MTU returns the size, in bytes, of the largest IP packet that passes inside a network
// between any two hosts. This is the smallest underlay MTU less the encapsulation. The
// MTU of self always counts, because this host knows it.
func MTU(self cluster.Host, hosts []cluster.Host) int {
	least, most := self.MTU, overhead(self)
	for _, h := range hosts {
		if h.ID != self.ID && MTUCounts(h) {
			least, most = min(least, h.MTU), max(most, overhead(h))
		}
	}
	return max(least-most, min(leastInner, self.MTU-most))
}

func overhead(h cluster.Host) int {
	if h.VTEP.Is6() {
		return vxlanOverhead6
	}
	return vxlanOverhead
}
