package ovs

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// An endpoint may be allowed addresses beside its own, such as one that keepalived moves
// between containers. Several endpoints may be allowed the same address. The switch does
// not decide which of them has it now: containers ask by ARP, and the one with the
// address answers, as on any Ethernet. The switch only ensures that no endpoint asks,
// answers or announces with an address that it is not allowed. A request goes only to the
// endpoints that are allowed the address. An announcement (gratuitous ARP) goes to all,
// so that a move takes effect at once.
//
// The switch checks a local container at its own port. It checks packets from a tunnel
// against the list of endpoints that the other host has published.

// sources are ranges that no container may send from, whatever it is allowed.
var sources = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8"),
	netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("224.0.0.0/3"),
}

// allowance returns the valid part of what an endpoint with address own is allowed, and
// the rest. A prefix inside the subnet must not cover the gateway, the first or last
// address of the subnet, or the address of another endpoint (owned is sorted). With a
// prefix outside the subnet the endpoint routes for others and may send from there. Such
// a prefix must not contain a host's address, because the switch identifies hosts by it.
func (g Segment) allowance(allowed []netip.Prefix, own netip.Addr, owned []netip.Addr, hosts map[netip.Addr]bool) (clean, dropped []netip.Prefix) {
	for _, p := range allowed {
		if ok := p.IsValid() && p.Addr().Is4() && p == p.Masked() && p.Bits() > 0; ok && !slices.Contains(clean, p) && g.mayAllow(p, own, owned, hosts) {
			clean = append(clean, p)
			continue
		}
		dropped = append(dropped, p)
	}
	slices.SortFunc(clean, comparePrefixes)
	return clean, dropped
}

// cleanAllowed keeps the valid allowed addresses of all endpoints: no endpoint may be
// allowed the address of another.
func (g *Segment) cleanAllowed(own, hosts map[netip.Addr]bool) (dropped []string) {
	owned := slices.SortedFunc(maps.Keys(own), netip.Addr.Compare)
	clean := func(allowed *[]netip.Prefix, ip netip.Addr) {
		if len(*allowed) == 0 {
			return
		}
		var bad []netip.Prefix
		*allowed, bad = g.allowance(*allowed, ip, owned, hosts)
		for _, p := range bad {
			dropped = append(dropped, fmt.Sprintf("address %s that endpoint %s is allowed", p, ip))
		}
	}
	for i := range g.Local {
		clean(&g.Local[i].Allowed, g.Local[i].IP)
	}
	for i := range g.Remote {
		clean(&g.Remote[i].Allowed, g.Remote[i].IP)
	}
	return dropped
}

func (g Segment) mayAllow(p netip.Prefix, own netip.Addr, owned []netip.Addr, hosts map[netip.Addr]bool) bool {
	if !g.Subnet.Overlaps(p) {
		for host := range hosts {
			if p.Contains(host) {
				return false
			}
		}
		return !slices.ContainsFunc(sources, p.Overlaps)
	}
	if p.Bits() == 32 && p.Addr() == own || p.Bits() < g.Subnet.Bits() || p.Contains(g.Gateway) || p.Contains(g.Subnet.Addr()) || p.Contains(lastOf(g.Subnet)) {
		return false
	}
	i, _ := slices.BinarySearchFunc(owned, p.Addr(), netip.Addr.Compare)
	for ; i < len(owned) && p.Contains(owned[i]); i++ {
		if owned[i] != own {
			return false
		}
	}
	return true
}

// lastOf returns the last address of a subnet, which is its broadcast address.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	for i := range 32 - p.Bits() {
		b[3-i/8] |= 1 << (i % 8)
	}
	return netip.AddrFrom4(b)
}

func comparePrefixes(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return a.Bits() - b.Bits()
}

// movable returns the allowed prefixes inside the subnet. The endpoint uses ARP for
// those.
func (g Segment) movable(allowed []netip.Prefix) []netip.Prefix {
	var list []netip.Prefix
	for _, p := range allowed {
		if g.Subnet.Overlaps(p) {
			list = append(list, p)
		}
	}
	return list
}

// beyond returns the allowed prefixes outside the subnet. The endpoint routes for those.
func (g Segment) beyond(allowed []netip.Prefix) []netip.Prefix {
	var list []netip.Prefix
	for _, p := range allowed {
		if !g.Subnet.Overlaps(p) {
			list = append(list, p)
		}
	}
	return list
}

// shares reports whether an endpoint here, and whether one on another host, is allowed an
// address of the segment's subnet.
func (g Segment) shares() (here, there bool) {
	for _, l := range g.Local {
		here = here || len(g.movable(l.Allowed)) > 0
	}
	for _, m := range g.Remote {
		there = there || m.OFPort > 0 && len(g.movable(m.Allowed)) > 0
	}
	return here, there
}

const broadcastMAC = "ff:ff:ff:ff:ff:ff"

// guardAllowed renders the flows that let a local endpoint send from its allowed
// addresses.
func (r *rendering) guardAllowed(g Segment, l Local) {
	own := fmt.Sprintf("in_port=%d,dl_src=%s,%s", l.OFPort, l.MAC, untagged)
	for _, p := range l.Allowed {
		r.add(tableGuard, 100, fmt.Sprintf("%s,ip,nw_src=%s", own, cidr(p)), "goto_table:%d", tablePolicy)
	}
	for _, p := range g.beyond(l.Allowed) {
		// Linux sends ARP requests from the address of the waiting packet.
		r.add(tableGuard, 100, fmt.Sprintf("%s,arp,arp_op=1,arp_spa=%s,arp_sha=%s", own, cidr(p), l.MAC), "goto_table:%d", tableAnswer)
	}
	for _, p := range g.movable(l.Allowed) {
		r.add(tableGuard, 100, fmt.Sprintf("%s,arp,arp_spa=%s,arp_sha=%s", own, cidr(p), l.MAC), "goto_table:%d", tableAnswer)
		// Requests for a known endpoint are already answered before this flow.
		r.speak(g, tableAnswer, fmt.Sprintf("arp,in_port=%d,arp_spa=%s", l.OFPort, cidr(p)), "")
		r.speak(g, tableAnswer, fmt.Sprintf("arp,arp_op=1,in_port=%d,arp_spa=%s", l.OFPort, cidr(p)), asking(g)+",")
	}
}

// speak renders the flows for ARP that passed the checks. They forward it to its
// destination, and an announcement to all including this host. The actions in first
// precede that. Flows with first take precedence over those without.
func (r *rendering) speak(g Segment, table int, match, first string) {
	more := 0
	if first != "" {
		more = 5
	}
	r.add(table, 70+more, match, "%sresubmit(,%d)", first, tableForward)
	if g.GatewayPort > 0 {
		r.add(table, 80+more, match+",dl_dst="+broadcastMAC, "%soutput:%d,resubmit(,%d)", first, g.GatewayPort, tableForward)
	}
}

// cidr formats a prefix as ovs-ofctl prints it, so that comparisons match.
func cidr(p netip.Prefix) string {
	if p.Bits() == 32 {
		return p.Addr().String()
	}
	return p.String()
}

// sharedPeers renders the flows by which the hosts themselves ask for addresses that
// endpoints share. All gateways have the same MAC address, so an answer to it would end
// at the gateway of the answering host. For these requests each host uses its own MAC
// address, see hostMAC.
func (r *rendering) sharedPeers(f Forwarding) {
	var here bool
	for _, g := range f.Segments {
		h, _ := g.shares()
		here = here || h
	}
	if !here {
		return
	}
	for _, p := range f.Peers {
		if !p.VTEP.Is4() {
			continue
		}
		mac := hostMAC(p.VTEP)
		r.add(tableTeach, 60, fmt.Sprintf("arp,arp_op=1,in_port=%d,dl_src=%s,arp_sha=%s,arp_spa=%s", p.OFPort, mac, mac, p.VTEP),
			"goto_table:%d", tableAsk)
		r.add(tableForward, 110, fmt.Sprintf("arp,arp_op=2,reg1=0,dl_dst=%s", mac),
			"move:NXM_NX_REG0[]->NXM_NX_TUN_ID[0..31],output:%d", p.OFPort)
	}
}

// hostMAC returns the locally administered MAC address with which the host with a tunnel
// address asks endpoints of other hosts.
func hostMAC(vtep netip.Addr) string {
	b := vtep.As4()
	return fmt.Sprintf("02:48:%02x:%02x:%02x:%02x", b[0], b[1], b[2], b[3])
}

// shared renders the flows for ARP about addresses that endpoints are allowed beside
// their own.
func (r *rendering) shared(g Segment, self netip.Addr) {
	here, there := g.shares()
	if !here && !there {
		return
	}
	r.add(tableAnswer, 60, fmt.Sprintf("arp,arp_op=1,reg0=%#x", g.VNI), "goto_table:%d", tableAsk)
	for _, m := range g.Remote {
		if m.OFPort == 0 {
			continue
		}
		said := fmt.Sprintf("reg0=%#x,in_port=%d,dl_src=%s,arp_sha=%s", g.VNI, m.OFPort, m.MAC, m.MAC)
		for _, p := range g.movable(m.Allowed) {
			r.speak(g, tableTeach, fmt.Sprintf("arp,%s,arp_spa=%s", said, cidr(p)), "")
		}
		if here { // otherwise nobody there asks
			for _, from := range append(g.beyond(m.Allowed), netip.PrefixFrom(m.IP, 32)) {
				r.add(tableTeach, 60, fmt.Sprintf("arp,arp_op=1,%s,arp_spa=%s", said, cidr(from)), "goto_table:%d", tableAsk)
			}
		}
	}
	if there && g.GatewayPort > 0 && self.Is4() {
		r.add(tableForward, 110, fmt.Sprintf("arp,arp_op=2,reg0=%#x,reg1=0x1,dl_dst=%s", g.VNI, hostMAC(self)),
			"set_field:%[1]s->eth_dst,set_field:%[1]s->arp_tha,output:%[2]d", g.GatewayMAC, g.GatewayPort)
	}
	r.ask(g, self)
	r.remember(tableAsk, g) // because these requests do not reach the same flow of tableAnswer
}

// ask renders the flows that send a request for a shared address to all endpoints that
// are allowed it. The longest prefix wins.
func (r *rendering) ask(g Segment, self netip.Addr) {
	index := g.sharers()
	for _, p := range slices.SortedFunc(maps.Keys(index), comparePrefixes) {
		here, there := index.candidates(g.Subnet, p)
		match := func(from string) string {
			return fmt.Sprintf("arp,arp_op=1,reg0=%#x,%s,arp_tpa=%s", g.VNI, from, cidr(p))
		}
		through := func(first ...string) []string {
			if len(there) == 0 {
				return nil
			}
			return slices.Concat(first, []string{fmt.Sprintf("set_field:%#x->tun_id", g.VNI)}, there)
		}
		r.add(tableAsk, 100+p.Bits(), match("reg1=0"), "%s", strings.Join(slices.Concat(here, through()), ","))
		if len(here) > 0 {
			r.add(tableAsk, 100+p.Bits(), match("reg1=0x1"), "%s", strings.Join(here, ","))
		}
		if g.GatewayPort > 0 && self.Is4() && len(there) > 0 {
			mac := hostMAC(self)
			r.add(tableAsk, 200+p.Bits(), match(fmt.Sprintf("in_port=%d", g.GatewayPort)), "%s", strings.Join(slices.Concat(here, through(
				fmt.Sprintf("set_field:%s->eth_src", mac), fmt.Sprintf("set_field:%s->arp_sha", mac), fmt.Sprintf("set_field:%s->arp_spa", self))), ","))
		}
	}
}

// sharedBy lists, for one prefix, the OpenFlow ports of the local endpoints that are
// allowed it, and of the tunnels to hosts with such endpoints.
type sharedBy struct{ here, there map[int]bool }

// sharers indexes the endpoints that share addresses by the prefix that they are allowed.
// Another host chooses how many there are, so that nothing may compare each with all.
type sharers map[netip.Prefix]sharedBy

func (g Segment) sharers() sharers {
	index := sharers{}
	at := func(p netip.Prefix) sharedBy {
		if _, ok := index[p]; !ok {
			index[p] = sharedBy{map[int]bool{}, map[int]bool{}}
		}
		return index[p]
	}
	for _, l := range g.Local {
		for _, p := range g.movable(l.Allowed) {
			at(p).here[l.OFPort] = true
		}
	}
	for _, m := range g.Remote {
		if m.OFPort == 0 {
			continue
		}
		for _, p := range g.movable(m.Allowed) {
			at(p).there[m.OFPort] = true
		}
	}
	return index
}

// candidates returns output actions for the local endpoints that are allowed all of p,
// and for the tunnels to hosts with such endpoints. All prefixes lie within the subnet.
func (s sharers) candidates(subnet, p netip.Prefix) (here, there []string) {
	all := sharedBy{map[int]bool{}, map[int]bool{}}
	for bits := subnet.Bits(); bits <= p.Bits(); bits++ {
		q := netip.PrefixFrom(p.Addr(), bits).Masked()
		maps.Copy(all.here, s[q].here)
		maps.Copy(all.there, s[q].there)
	}
	outputs := func(ports map[int]bool) (list []string) {
		for _, port := range slices.Sorted(maps.Keys(ports)) {
			list = append(list, fmt.Sprintf("output:%d", port))
		}
		return list
	}
	return outputs(all.here), outputs(all.there)
}
