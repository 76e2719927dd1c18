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

// contests remembers which host's endpoint has an address on a network here, so
// that who claims it later does not get it.
type contests struct {
	mu   sync.Mutex
	won  map[string]standing // by network
	lost map[string][]string // by network: sentences
}

// standing is who has what on a network.
type standing struct {
	own     map[netip.Addr]holder
	allowed map[sharing]bool
}

type holder struct{ host, mac string }

// sharing is an address that a host's endpoint is allowed beside its own.
type sharing struct {
	host   string
	prefix netip.Prefix
}

// claim is an endpoint that another host says it has.
type claim struct {
	host     string
	ofport   int
	endpoint endpoint
	missed   bool // it has vanished from the host's list, a moment ago
}

// Who has an address that is no endpoint's on another host.
const (
	thisHost   = "this host"
	theGateway = "the gateway"
)

// settle decides who has which address and which MAC on a network, each of them once.
// The gateway stands before all, then what is attached here, then what was programmed
// before, then the older tunnel, and last what has vanished a moment ago. A new claim to
// what others were allowed before comes to nothing. This is the one place where that is
// decided: package ovs leaves out what is ambiguous still, and nobody would be told. The
// sentences name who lost.
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
	ips, macs := map[netip.Addr]string{seg.Gateway: theGateway}, make(map[string]string, len(claims)+1) // to who has it
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
	allowed := allowedBefore(claims, seg.Local, before)
	won := standing{own: make(map[netip.Addr]holder, len(claims)), allowed: map[sharing]bool{}}
	for _, c := range claims {
		ep, lose := c.endpoint, lose
		if c.missed {
			lose = func(string, ...any) {} // its host does not claim it any more
		}
		if ep.IP != seg.Gateway && !usableIn(seg.Subnet, seg.Gateway, ep.IP) {
			// It would be answered for by ARP and drawn away from whoever has it.
			lose("host %q claims address %s for %q, which no endpoint in subnet %s can have; its endpoint is not reached from here", name(c.host), ep.IP, ep.ID, seg.Subnet)
			continue
		}
		if was(c) > 0 {
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
		for _, p := range ep.Allowed {
			won.allowed[sharing{c.host, p}] = true
		}
	}
	slices.SortFunc(seg.Remote, func(x, y ovs.Remote) int { return x.IP.Compare(y.IP) })
	return seg, won, lost
}

// allowedBefore lists what endpoints of this host are allowed, and those of others
// that were before and are still.
func allowedBefore(claims []claim, local []ovs.Local, before standing) []sharing {
	var list []sharing
	for _, l := range local {
		for _, p := range l.Allowed {
			list = append(list, sharing{thisHost, p})
		}
	}
	for _, c := range claims {
		for _, p := range c.endpoint.Allowed {
			if s := (sharing{c.host, p}); before.allowed[s] {
				list = append(list, s)
			}
		}
	}
	return list
}

// allowedTo says to whose endpoint, but for one host's, an address is allowed.
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

// usableIn says whether an endpoint can have an address in a subnet: neither the
// gateway's, nor the subnet's own, nor its broadcast address.
func usableIn(subnet netip.Prefix, gateway, ip netip.Addr) bool {
	return subnet.Contains(ip) && ip != gateway && ip != subnet.Addr() && subnet.Contains(ip.Next())
}

// settle judges the claims to one network's addresses and remembers who has them.
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

// only forgets the networks that are not used here any more.
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

// problems says which claims are not followed.
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
