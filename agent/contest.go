package agent

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/socketplane/socketplane/ovs"
)

// contests remembers which host's endpoint holds each address on a network, so that a
// later claim by another host does not take it over.
type contests struct {
	mu   sync.Mutex
	won  map[string]standing // by network
	lost map[string][]string // by network; messages
}

// standing records who holds which addresses on a network.
type standing struct {
	own     map[netip.Addr]holder
	allowed map[sharing]bool
}

type holder struct{ host, mac string }

// sharing is a prefix that an endpoint of a host is allowed in addition to its own
// address.
type sharing struct {
	host   string
	prefix netip.Prefix
}

// claim is an endpoint that another host publishes.
type claim struct {
	host     string
	ofport   int
	endpoint endpoint
	missed   bool // it disappeared from the host's list a moment ago
}

// Holders of an address that is not an endpoint's on another host.
const (
	thisHost   = "this host"
	theGateway = "the gateway"
)

// settle assigns each address and each MAC on a network to one holder. The order of
// precedence is: the gateway, endpoints attached here, remote endpoints that were
// programmed before, those with the older tunnel, and last endpoints that disappeared a
// moment ago. A new claim loses to a prefix that another endpoint was allowed before.
// Only prefixes in force count, see inForce, so in the first run of an agent's life own
// addresses take precedence, those of other hosts and of this one.
// settle must resolve every conflict: package ovs omits what is still ambiguous, without
// a report. The returned messages name the losers.
func settle(claims []claim, seg ovs.Segment, before standing, name func(string) string) (ovs.Segment, standing, []string) {
	was := func(c claim) int {
		switch {
		case c.missed:
			return 2
		case before.own[c.endpoint.IP] == (holder{c.host, c.endpoint.MAC}):
			return 0
		}
		return 1
	}
	slices.SortFunc(claims, func(x, y claim) int {
		return cmp.Or(cmp.Compare(was(x), was(y)), cmp.Compare(x.ofport, y.ofport), x.endpoint.IP.Compare(y.endpoint.IP), strings.Compare(x.endpoint.ID, y.endpoint.ID))
	})
	ips, macs := map[netip.Addr]string{seg.Gateway: theGateway}, make(map[string]string, len(claims)+1) // to the holder
	macs[seg.GatewayMAC] = theGateway
	var lost []string
	lose := func(format string, args ...any) {
		if len(lost) < maxVerdictNotes {
			lost = append(lost, fmt.Sprintf(format, args...))
		}
	}
	take := func(ip netip.Addr, mac, who string) (what, other string, ok bool) {
		if other, taken := ips[ip]; taken {
			return "address " + ip.String(), other, false
		}
		if other, taken := macs[mac]; taken {
			return "MAC address " + mac, other, false
		}
		ips[ip], macs[mac] = who, who
		return "", "", true
	}
	locals := slices.SortedFunc(slices.Values(seg.Local), func(x, y ovs.Local) int {
		return cmp.Or(x.IP.Compare(y.IP), cmp.Compare(x.OFPort, y.OFPort))
	})
	seg.Local, seg.Remote = nil, nil
	for _, l := range locals {
		if what, other, ok := take(l.IP, l.MAC, thisHost); !ok {
			lose("the endpoint with address %s on this host has %s, which %s has; it is off the network: remove it and create it anew", l.IP, what, shownHost(other, name))
			continue
		}
		seg.Local = append(seg.Local, l)
	}
	var allowed []sharing
	judged := false // allowed is known; it depends on the endpoints that were programmed before
	won := standing{own: make(map[netip.Addr]holder, len(claims)), allowed: map[sharing]bool{}}
	for _, c := range claims {
		ep, lose := c.endpoint, lose
		if c.missed {
			lose = func(string, ...any) {} // its host no longer claims it
		}
		if ep.IP != seg.Gateway && !usableIn(seg.Subnet, seg.Gateway, ep.IP) {
			// Flows for it would answer ARP for that address and draw its traffic away.
			lose("host %q claims address %s for %q, which no endpoint in subnet %s can have; its endpoint is not reached from here", name(c.host), ep.IP, ep.ID, seg.Subnet)
			continue
		}
		if was(c) > 0 {
			if !judged {
				allowed, judged = allowedBefore(claims, seg, before), true
			}
			if other, ok := allowedTo(allowed, ep.IP, c.host); ok {
				lose("host %q claims address %s for %q, which %s is allowed; its endpoint is not reached from here", name(c.host), ep.IP, ep.ID, shownHost(other, name))
				continue
			}
		}
		if what, other, ok := take(ep.IP, ep.MAC, c.host); !ok {
			lose("host %q claims %s for %q, which %s has; its endpoint is not reached from here", name(c.host), what, ep.ID, shownHost(other, name))
			continue
		}
		won.own[ep.IP] = holder{c.host, ep.MAC}
		seg.Remote = append(seg.Remote, ovs.Remote{OFPort: c.ofport, MAC: ep.MAC, IP: ep.IP, Allowed: ep.Allowed})
	}
	if mayShare(seg) {
		owners := ownersOf(seg)
		keep := func(host string, ip netip.Addr, allowed []netip.Prefix) {
			for _, p := range allowed {
				if inForce(seg, p, ip, owners) {
					won.allowed[sharing{host, p}] = true
				}
			}
		}
		for _, l := range seg.Local {
			keep(thisHost, l.IP, l.Allowed)
		}
		for _, r := range seg.Remote {
			keep(won.own[r.IP].host, r.IP, r.Allowed)
		}
	}
	slices.SortFunc(seg.Remote, func(x, y ovs.Remote) int { return x.IP.Compare(y.IP) })
	return seg, won, lost
}

// allowedBefore lists the prefixes that were in force before, are still claimed, and are
// in force beside the endpoints that have settled so far.
func allowedBefore(claims []claim, seg ovs.Segment, before standing) []sharing {
	if len(before.allowed) == 0 {
		return nil
	}
	owners := ownersOf(seg)
	var list []sharing
	add := func(host string, ip netip.Addr, allowed []netip.Prefix) {
		for _, p := range allowed {
			if s := (sharing{host, p}); before.allowed[s] && inForce(seg, p, ip, owners) {
				list = append(list, s)
			}
		}
	}
	for _, l := range seg.Local {
		add(thisHost, l.IP, l.Allowed)
	}
	for _, c := range claims {
		add(c.host, c.endpoint.IP, c.endpoint.Allowed)
	}
	return list
}

// ownersOf lists the endpoints of a segment by address.
func ownersOf(seg ovs.Segment) []owner {
	owners := make([]owner, 0, len(seg.Local)+len(seg.Remote))
	for _, l := range seg.Local {
		owners = append(owners, owner{ip: l.IP})
	}
	for _, r := range seg.Remote {
		owners = append(owners, owner{ip: r.IP})
	}
	slices.SortFunc(owners, func(x, y owner) int { return x.ip.Compare(y.ip) })
	return owners
}

// mayShare reports whether any endpoint of a segment is allowed anything beside its own
// address.
func mayShare(seg ovs.Segment) bool {
	return slices.ContainsFunc(seg.Local, func(l ovs.Local) bool { return len(l.Allowed) > 0 }) ||
		slices.ContainsFunc(seg.Remote, func(r ovs.Remote) bool { return len(r.Allowed) > 0 })
}

// inForce reports whether the switch lets the endpoint with the address own use the
// prefix p inside the subnet. Package ovs applies the same test: p covers no address of
// the network itself, and no other endpoint's own address.
func inForce(seg ovs.Segment, p netip.Prefix, own netip.Addr, owners []owner) bool {
	if len(inside(seg.Subnet, []netip.Prefix{p})) == 0 || p.Contains(seg.Gateway) || p.Contains(seg.Subnet.Addr()) || p.Contains(lastOf(seg.Subnet)) {
		return false
	}
	_, taken := covered(p, owners, own)
	return !taken && (!p.IsSingleIP() || p.Addr() != own)
}

// allowedTo returns the host whose endpoint is allowed the address, ignoring the host
// but.
func allowedTo(list []sharing, ip netip.Addr, but string) (host string, ok bool) {
	for _, s := range list {
		if s.host != but && s.prefix.Contains(ip) {
			return s.host, true
		}
	}
	return "", false
}

func shownHost(id string, name func(string) string) string {
	switch id {
	case theGateway:
		return id
	case thisHost:
		return "an endpoint of " + id
	}
	return fmt.Sprintf("an endpoint of host %q", name(id))
}

// usableIn reports whether an endpoint can have an address in a subnet. The gateway, the
// network address and the broadcast address are not usable.
func usableIn(subnet netip.Prefix, gateway, ip netip.Addr) bool {
	return subnet.Contains(ip) && ip != gateway && ip != subnet.Addr() && subnet.Contains(ip.Next())
}

// settle settles the claims on one network and remembers the result. news is the list of
// lost claims if it differs from the last one.
func (c *contests) settle(networkID string, claims []claim, seg ovs.Segment, name func(string) string) (settled ovs.Segment, news []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	settled, won, lost := settle(claims, seg, c.won[networkID], name)
	if c.won == nil {
		c.won, c.lost = map[string]standing{}, map[string][]string{}
	}
	if !slices.Equal(lost, c.lost[networkID]) {
		news = lost
	}
	c.won[networkID], c.lost[networkID] = won, lost
	return settled, news
}

// only forgets all other networks. The caller passes those in use on this host.
func (c *contests) only(networks map[string]bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id := range c.won {
		if !networks[id] {
			delete(c.won, id)
			delete(c.lost, id)
		}
	}
}

// problems lists the claims that this host rejects.
func (c *contests) problems() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []string
	for id, lost := range c.lost {
		for _, sentence := range lost {
			list = append(list, fmt.Sprintf("network %q: %s", id, sentence))
		}
	}
	slices.SortFunc(list, strings.Compare)
	return list
}
