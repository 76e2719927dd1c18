package verdict

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/socketplane/socketplane/agent/cluster"
)

// moveAfter is how long the record of a known peer must have a new tunnel address before
// this host uses it. If somebody else wrote the record, the peer corrects it within a
// second, and no packet is misdirected.
const moveAfter = 2 * time.Second

// peers judges the tunnel addresses of the other hosts.
func (j *judging) peers() {
	at := map[netip.Addr]cluster.Host{} // host that has an address by this judgement
	selfRevision := uint64(0)
	for _, h := range j.s.Hosts {
		switch {
		case h.ID == j.f.Self:
			selfRevision = h.Revision
		case j.badAddress(h, j.m.peers[h.ID] == h.VTEP) == "":
			j.v.Hosts = append(j.v.Hosts, h.VTEP)
		}
	}
	claimants := j.claimants()
	away := j.away(claimants)
	for _, h := range claimants {
		old, known := j.m.peers[h.ID]
		p := Peer{}
		why := j.badAddress(h, known && old == h.VTEP)
		_, oldTaken := at[old]
		stays := known && !oldTaken && old != h.VTEP && j.badAddress(cluster.Host{VTEP: old}, true) == ""
		other, taken := at[h.VTEP]
		if owner, is := away[h.VTEP]; is && !taken && known && old != h.VTEP {
			other, taken = owner, true
		}
		if why == "" && !taken && stays && j.waits(h) {
			at[old], j.v.Memory.peers[h.ID] = h, old
			j.v.Peers[h.ID] = Peer{VTEP: old, Elsewhere: true}
			continue
		}
		if why == "" && taken {
			why = fmt.Sprintf("that is the address of host %q (%s), which was known first", other.Name, other.ID)
			if !h.Alive && h.Revision < other.Revision {
				why = "-" // the machine was reinstalled; this is its former record
			}
		}
		if why == ours && !h.Alive && h.Revision < selfRevision {
			why = "-" // likewise for this machine
		}
		switch {
		case why == "":
			p.VTEP = h.VTEP
		case why != "-":
			p.Problem = fmt.Sprintf("the record of host %q (%s) names the tunnel address %s, and %s; ", h.Name, h.ID, h.VTEP, why)
			if stays {
				p.VTEP, p.Elsewhere = old, true
				p.Problem += fmt.Sprintf("its tunnel stays at %s", old)
			} else {
				p.Problem += "this host does not reach its endpoints"
			}
			p.Problem += fmt.Sprintf("; see key %s%s", cluster.HostsPrefix, h.ID)
		}
		if p.VTEP.IsValid() {
			at[p.VTEP], j.v.Memory.peers[h.ID] = h, p.VTEP
		}
		j.v.Peers[h.ID] = p
	}
	j.rememberOwners()
}

// claimants returns the other hosts that are not dead, those with the best claim to an
// address first: live hosts first, then by who was there first.
func (j *judging) claimants() []cluster.Host {
	list := slices.DeleteFunc(slices.Clone(j.s.Hosts), func(h cluster.Host) bool {
		return h.ID == j.f.Self || j.s.Gone[h.ID]
	})
	rank := func(h cluster.Host) int {
		old, known := j.m.peers[h.ID]
		switch {
		case !h.Alive:
			return 4
		case j.m.owners[h.VTEP] == h.ID:
			return 0
		case known && old == h.VTEP:
			return 1
		case known:
			return 2 // it may have to keep its previous address
		}
		return 3
	}
	slices.SortFunc(list, func(a, b cluster.Host) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Revision, b.Revision), strings.Compare(a.ID, b.ID))
	})
	return list
}

// away returns the hosts whose agent is away and that are not dead, by their address. A
// host that is known at another address cannot take it, because somebody else may have
// written its record. An unknown host can: it may be a reinstalled machine.
func (j *judging) away(list []cluster.Host) map[netip.Addr]cluster.Host {
	away := map[netip.Addr]cluster.Host{}
	for _, h := range list {
		if !h.Alive && (j.m.peers[h.ID] == h.VTEP || j.m.owners[h.VTEP] == h.ID) {
			away[h.VTEP] = h
		}
	}
	return away
}

const ours = "that is an address of this host"

// badAddress returns why an address cannot be a peer's, or "" if it can.
func (j *judging) badAddress(h cluster.Host, known bool) string {
	a := h.VTEP
	switch {
	case !a.IsValid() || a.Is4In6() || a.Zone() != "" || a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a.IsLinkLocalUnicast():
		return "that is no unicast address"
	case a.Is4() && (a.As4()[0] == 0 || a.As4()[0] >= 240):
		return "that is no unicast address"
	case a == j.f.VTEP:
		return ours
	case j.f.VTEP.IsValid() && a.Is4() != j.f.VTEP.Is4():
		return "that is of another IP version than this host's tunnel address"
	}
	for _, p := range j.f.Addrs {
		switch {
		case a == p.Addr():
			return ours
		case p.Addr().Is4() && p.Bits() < 31 && (a == p.Masked().Addr() || a == broadcast(p)):
			return fmt.Sprintf("that is no host's address, but the network's or the broadcast address of %s", p.Masked())
		}
	}
	if s := j.inner(a); s.Interface != "" {
		return fmt.Sprintf("that lies in %s of interface %s, which leads to containers or virtual machines and not to other hosts; "+
			"if a host is there, add the interface to uplinks in section [network] of this host's settings", s.Prefix, s.Interface)
	}
	if id, in := j.settled.containing(a); in && !known {
		return fmt.Sprintf("that lies in the container network %q", id)
	}
	return ""
}

// inner returns the subnet of an interface that is not an uplink if it is the best route
// to an address, else a zero Subnet. A container there could pass as a host. The peer's
// previous address is no exception: with such a subnet, its packets go to that interface
// anyway.
func (j *judging) inner(a netip.Addr) Subnet {
	var best Subnet
	for _, s := range j.f.Subnets {
		if s.Prefix.Bits() == a.BitLen() || !s.Prefix.Contains(a) { // the interface's own address alone
			continue
		}
		if more := s.Prefix.Bits() - best.Prefix.Bits(); !best.Prefix.IsValid() || more > 0 || more == 0 && s.Uplink {
			best = s
		}
	}
	if best.Uplink {
		return Subnet{}
	}
	return best
}

func broadcast(p netip.Prefix) netip.Addr {
	b := p.Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	return netip.AddrFrom4(b)
}

// waits reports whether the new address of a known peer is too recent to use.
func (j *judging) waits(h cluster.Host) bool {
	m, ok := j.m.moving[h.ID]
	if !ok || m.to != h.VTEP {
		m = move{to: h.VTEP, since: j.f.Now}
	}
	left := moveAfter - j.f.Now.Sub(m.since)
	if left <= 0 {
		return false
	}
	j.v.Memory.moving[h.ID] = m
	if j.v.Again == 0 || left < j.v.Again {
		j.v.Again = left
	}
	return true
}

// rememberOwners keeps the first host of each address as its owner while its record
// claims the address.
func (j *judging) rememberOwners() {
	for _, h := range j.s.Hosts {
		vtep := j.v.Peers[h.ID].VTEP
		if first := j.m.owners[h.VTEP]; first == h.ID {
			j.v.Memory.owners[h.VTEP] = h.ID
		} else if _, ok := j.v.Memory.owners[vtep]; vtep.IsValid() && !ok && j.m.owners[vtep] == "" {
			j.v.Memory.owners[vtep] = h.ID
		}
	}
	// If the owner's record is gone or has moved, the host that has the address now
	// becomes the owner.
	for id, vtep := range j.v.Memory.peers {
		if j.v.Memory.owners[vtep] == "" {
			j.v.Memory.owners[vtep] = id
		}
	}
}
