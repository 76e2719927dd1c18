package ovs

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
)

// Route leads packets that containers send to the gateway to an endpoint that may send
// from Prefix. The switch on the sender's host forwards them itself. The endpoint sends
// the answers directly to the container, so they need no path through the host's kernel.
type Route struct {
	Prefix netip.Prefix
	Via    netip.Addr // the endpoint's own address
}

// cleanRoutes keeps the routes that lead to an endpoint that may send from the prefix. It
// keeps the first in sort order of two with the same prefix. The endpoints are already
// clean.
func (g *Segment) cleanRoutes(routes []Route) (dropped []string) {
	allowed := map[netip.Addr][]netip.Prefix{}
	for _, l := range g.Local {
		allowed[l.IP] = l.Allowed
	}
	for _, m := range g.Remote {
		if m.OFPort > 0 {
			allowed[m.IP] = m.Allowed
		}
	}
	routes = slices.SortedFunc(slices.Values(routes), func(a, b Route) int {
		return cmp.Or(comparePrefixes(a.Prefix, b.Prefix), a.Via.Compare(b.Via))
	})
	for _, r := range routes {
		within := func(p netip.Prefix) bool { return p.Bits() <= r.Prefix.Bits() && p.Contains(r.Prefix.Addr()) }
		same := func(other Route) bool { return other.Prefix == r.Prefix }
		if !r.Prefix.IsValid() || r.Prefix != r.Prefix.Masked() || g.Subnet.Overlaps(r.Prefix) ||
			!slices.ContainsFunc(allowed[r.Via], within) || slices.ContainsFunc(g.Routes, same) {
			dropped = append(dropped, fmt.Sprintf("route %s via %s", r.Prefix, r.Via))
			continue
		}
		g.Routes = append(g.Routes, r)
	}
	return dropped
}

// route renders the segment's routes. The longest prefix wins.
func (r *rendering) route(g Segment) {
	if g.GatewayMAC == "" {
		return
	}
	out := map[netip.Addr]string{}
	for _, l := range g.Local {
		out[l.IP] = fmt.Sprintf("set_field:%s->eth_dst,dec_ttl,output:%d", l.MAC, l.OFPort)
	}
	for _, m := range g.Remote {
		out[m.IP] = fmt.Sprintf("set_field:%s->eth_dst,dec_ttl,set_field:%#x->tun_id,output:%d", m.MAC, g.VNI, m.OFPort)
	}
	for _, to := range g.Routes {
		r.add(tableForward, 120+to.Prefix.Bits(), fmt.Sprintf("ip,reg0=%#x,reg1=0,dl_dst=%s,nw_dst=%s", g.VNI, g.GatewayMAC, cidr(to.Prefix)),
			"set_field:%s->eth_src,%s", g.GatewayMAC, out[to.Via])
	}
}
