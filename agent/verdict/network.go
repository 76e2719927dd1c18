package verdict

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/socketplane/socketplane/agent/network"
)

// private are the ranges that networks may use on every host: RFC 1918, the shared
// address space of RFC 6598, and the benchmark range of RFC 2544.
var private = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"),
	netip.MustParsePrefix("172.16.0.0/12"),
	netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("100.64.0.0/10"),
	netip.MustParsePrefix("198.18.0.0/15"),
}

// never are the ranges that no network may use, even if allowed.
var never = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),      // this network, RFC 1122
	netip.MustParsePrefix("127.0.0.0/8"),    // loopback
	netip.MustParsePrefix("169.254.0.0/16"), // link-local, RFC 3927
	netip.MustParsePrefix("224.0.0.0/3"),    // multicast and reserved
}

// Range returns why a host that allows the ranges of allowPublic must not use a subnet
// for a network, or "" if it may.
func Range(subnet netip.Prefix, allowPublic []netip.Prefix) string {
	if !subnet.IsValid() || !subnet.Addr().Is4() {
		return "is no IPv4 subnet"
	}
	for _, n := range never {
		if n.Overlaps(subnet) {
			return fmt.Sprintf("lies in %s, which no network can have", n)
		}
	}
	for _, p := range slices.Concat(private, allowPublic) {
		if p.Bits() <= subnet.Bits() && p.Contains(subnet.Addr()) {
			return ""
		}
	}
	return "is no private range, and allow_public in section [network] of this host's settings does not list it"
}

// networks judges the networks: first those in use on this host, then those accepted
// before, then by age.
func (j *judging) networks(used map[string]network.Record) {
	taken, vnis := newPrefixSet(), map[uint32]string{}
	for id, r := range used {
		taken.add(r.Subnet, id)
		vnis[r.VNI] = id
	}
	for _, r := range j.ordered() {
		if force, ok := used[r.ID]; ok {
			n := Network{Record: r}
			if !same(force, r) {
				n.Warning = fmt.Sprintf("the stored record of network %q was changed to %s, and this host goes on with %s until no endpoint is on the network here; %s",
					r.ID, values(r), values(force), written(r))
			} else if with := j.obstacle(force.Subnet); with != "" {
				n.Warning = fmt.Sprintf("network %q is in use on this host although its subnet %s overlaps %s; traffic may go the wrong way; remove one of them",
					r.ID, force.Subnet, with)
			} else if why := Range(force.Subnet, j.f.AllowPublic); why != "" {
				n.Warning = fmt.Sprintf("network %q is in use on this host although its subnet %s %s; remove its endpoints or allow it", r.ID, force.Subnet, why)
			}
			j.v.Networks[r.ID] = n
			j.v.Memory.networks[r.ID] = force
			continue
		}
		n := Network{Record: r}
		if why := j.refusal(r, taken, vnis); why != "" {
			n.Refused = fmt.Sprintf("network %q is not used on this host: %s; %s", r.ID, why, written(r))
		} else {
			taken.add(r.Subnet, r.ID)
			vnis[r.VNI] = r.ID
			j.v.Memory.networks[r.ID] = r
		}
		j.v.Networks[r.ID] = n
	}
}

// ordered returns the networks in the order of judgement. A record that was written again
// counts as younger, so changing another network's record brings no advantage.
func (j *judging) ordered() []network.Record {
	list := slices.Clone(j.s.Networks)
	known := func(r network.Record) int {
		if was, ok := j.m.networks[r.ID]; ok && same(was, r) {
			return 0
		}
		return 1
	}
	slices.SortFunc(list, func(a, b network.Record) int {
		return cmp.Or(cmp.Compare(known(a), known(b)), cmp.Compare(a.Version, b.Version), strings.Compare(a.ID, b.ID))
	})
	return list
}

// refusal returns why this host must not use a network that it does not use yet, or "" if
// it may.
func (j *judging) refusal(r network.Record, taken *prefixSet, vnis map[uint32]string) string {
	if why := Range(r.Subnet, j.f.AllowPublic); why != "" {
		return fmt.Sprintf("its subnet %s %s", r.Subnet, why)
	}
	if with := j.obstacle(r.Subnet); with != "" {
		return fmt.Sprintf("its subnet %s overlaps %s; delete the network, or remove what it overlaps", r.Subnet, with)
	}
	if other, ok := taken.overlapping(r.Subnet); ok {
		return fmt.Sprintf("its subnet %s overlaps network %q, which was here first; delete one of them", r.Subnet, other)
	}
	if other, ok := vnis[r.VNI]; ok {
		return fmt.Sprintf("its VNI %d is that of network %q, which was here first; delete one of them", r.VNI, other)
	}
	return ""
}

// obstacle returns the part of the underlay that a subnet overlaps, or "" if none.
func (j *judging) obstacle(subnet netip.Prefix) string {
	for _, a := range j.f.Addrs {
		if subnet.Contains(a.Addr()) {
			return fmt.Sprintf("the address %s of this host", a.Addr())
		}
	}
	for _, p := range j.f.Routes {
		if p.Addr().Is4() && p.Bits() > 1 && p.Overlaps(subnet) {
			return fmt.Sprintf("the route %s of this host", p)
		}
	}
	for _, h := range j.s.Hosts {
		if vtep := j.v.Peers[h.ID].VTEP; vtep.IsValid() && subnet.Contains(vtep) {
			return fmt.Sprintf("the tunnel address %s of host %q", vtep, h.Name)
		}
	}
	return ""
}

func values(r network.Record) string {
	return fmt.Sprintf("subnet %s, gateway %s, VLAN %d, VNI %d", r.Subnet, r.Gateway, r.VLAN, r.VNI)
}

// written returns where a record is stored. The store does not record who wrote it.
func written(r network.Record) string {
	return fmt.Sprintf("the store does not record who wrote it (key %s, version %d)", network.Key(r.ID), r.Version)
}
