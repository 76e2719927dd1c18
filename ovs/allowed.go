package ovs

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// An endpoint may be allowed addresses beside its own: one that keepalived moves
// between containers, say. Several endpoints may be allowed the same. Who has it
// now, the switch does not decide and need not know: containers ask by ARP, and
// whoever has the address answers, as on any Ethernet. The switch only sees to it
// that nobody asks, answers or announces with an address that it is not allowed.
// A request goes to the endpoints that are allowed the address and to no other;
// an announcement (gratuitous ARP) goes to all, so that a move is heard at once.
//
// A container is held to this at its own port. What comes by a tunnel is held to
// the list of endpoints that its host has published.

// sources are ranges that no container sends from, whatever it is allowed.
var sources = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8"),
	netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("224.0.0.0/3"),
}

// allowance cleans what an endpoint with address own is allowed. Inside the subnet
// nothing may cover the gateway, the subnet's first and last address, or another
// endpoint's own (owned is sorted). Outside of it the endpoint routes for others:
// it may send from there, but not from a host's address, by which the switch knows
// hosts.
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

// cleanAllowed leaves of what the endpoints are allowed what they can be: an address
// that an endpoint has is nobody else's.
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

// lastOf is a subnet's last address, to which it broadcasts.
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

// movable are those of an endpoint's allowed prefixes for which ARP is spoken.
func (g Segment) movable(allowed []netip.Prefix) []netip.Prefix {
	var list []netip.Prefix
	for _, p := range allowed {
		if g.Subnet.Overlaps(p) {
			list = append(list, p)
		}
	}
	return list
}

// beyond are those outside of the subnet: what the endpoint routes for.
func (g Segment) beyond(allowed []netip.Prefix) []netip.Prefix {
	var list []netip.Prefix
	for _, p := range allowed {
		if !g.Subnet.Overlaps(p) {
			list = append(list, p)
		}
	}
	return list
}

// shares says whether an endpoint here, and whether one on another host, is allowed
// an address of the segment's subnet.
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

// guardAllowed lets an endpoint of this host speak with what it is allowed.
func (r *rendering) guardAllowed(g Segment, l Local) {
	own := fmt.Sprintf("in_port=%d,dl_src=%s,%s", l.OFPort, l.MAC, untagged)
	for _, p := range l.Allowed {
		r.add(tableGuard, 100, fmt.Sprintf("%s,ip,nw_src=%s", own, cidr(p)), "goto_table:%d", tablePolicy)
	}
	for _, p := range g.beyond(l.Allowed) {
		// Linux asks from the address that the waiting packet has.
		r.add(tableGuard, 100, fmt.Sprintf("%s,arp,arp_op=1,arp_spa=%s,arp_sha=%s", own, cidr(p), l.MAC), "goto_table:%d", tableAnswer)
	}
	for _, p := range g.movable(l.Allowed) {
		r.add(tableGuard, 100, fmt.Sprintf("%s,arp,arp_spa=%s,arp_sha=%s", own, cidr(p), l.MAC), "goto_table:%d", tableAnswer)
		// What it asks of a known endpoint has been answered before this.
		r.speak(g, tableAnswer, fmt.Sprintf("arp,in_port=%d,arp_spa=%s", l.OFPort, cidr(p)), "")
		r.speak(g, tableAnswer, fmt.Sprintf("arp,arp_op=1,in_port=%d,arp_spa=%s", l.OFPort, cidr(p)), asking(g)+",")
	}
}

// speak renders where ARP goes that may be believed: to whom it is addressed, and
// an announcement to all, this host too. The actions in first precede that. Flows with
// first take precedence over those without.
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

// cidr writes a prefix as ovs-ofctl prints it, so that comparisons find it.
func cidr(p netip.Prefix) string {
	if p.Bits() == 32 {
		return p.Addr().String()
	}
	return p.String()
}

// sharedPeers renders how the hosts themselves ask for addresses that endpoints
// share. All gateways have one MAC address, so an answer to that would end at the
// gateway next to whoever answers. For these questions a host uses a MAC address
// of its own, see hostMAC.
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

// hostMAC is the locally administered MAC address with which the host at a tunnel
// address asks other hosts' endpoints.
func hostMAC(vtep netip.Addr) string {
	b := vtep.As4()
	return fmt.Sprintf("02:48:%02x:%02x:%02x:%02x", b[0], b[1], b[2], b[3])
}

// shared renders who hears and who answers ARP about addresses that endpoints are
// allowed beside their own.
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
		if here { // only then does anybody there ask
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
	r.remember(tableAsk, g) // tableAnswer's own memory is not reached
}

// ask renders to whom a request for such an address goes: to all that are allowed
// it. The longest prefix holds.
func (r *rendering) ask(g Segment, self netip.Addr) {
	all := map[netip.Prefix]bool{}
	for _, l := range g.Local {
		for _, p := range g.movable(l.Allowed) {
			all[p] = true
		}
	}
	for _, m := range g.Remote {
		for _, p := range g.movable(m.Allowed) {
			if m.OFPort > 0 {
				all[p] = true
			}
		}
	}
	for _, p := range slices.SortedFunc(maps.Keys(all), comparePrefixes) {
		here, there := g.candidates(p)
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

// candidates are the ports of endpoints here, and the tunnels to hosts with
// endpoints, that are allowed all of p, as actions.
func (g Segment) candidates(p netip.Prefix) (here, there []string) {
	allows := func(allowed []netip.Prefix) bool {
		return slices.ContainsFunc(allowed, func(q netip.Prefix) bool { return q.Bits() <= p.Bits() && q.Contains(p.Addr()) })
	}
	for _, l := range g.Local {
		if allows(l.Allowed) {
			here = append(here, fmt.Sprintf("output:%d", l.OFPort))
		}
	}
	tunnels := map[int]bool{}
	for _, m := range g.Remote {
		if m.OFPort > 0 && !tunnels[m.OFPort] && allows(m.Allowed) {
			tunnels[m.OFPort] = true
			there = append(there, fmt.Sprintf("output:%d", m.OFPort))
		}
	}
	return here, there
}
