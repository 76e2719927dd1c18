package verdict

import (
	"github.com/socketplane/socketplane/agent/cluster"
)

// What VXLAN adds to an inner IP packet over IPv4: outer IPv4 20, UDP 8, VXLAN 8
// (RFC 7348) and the inner Ethernet header 14 bytes. The header of IPv6 is 40.
const (
	vxlanOverhead  = 50
	vxlanOverhead6 = 70
)

// LeastMTU is the smallest MTU of an underlay that counts: that of IPv6, RFC
// 8200. A host that says less is ignored, or one record would make the packets of
// all containers as small as it likes.
const LeastMTU = 1280

// leastInner is the MTU that no record of another host can push networks below.
const leastInner = LeastMTU - vxlanOverhead

// MTUCounts says whether a host's MTU counts for that of the networks.
func MTUCounts(h cluster.Host) bool { return h.MTU-overhead(h) >= leastInner }

// MTU is the largest IP packet that passes inside a network between any two
// hosts: the smallest underlay MTU less the encapsulation. self's own MTU is no
// claim, and always counts here.
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
