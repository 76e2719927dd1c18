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
}

// settle gives the remote endpoints of a network that are programmed: each address
// and each MAC once. What is attached here stands before all, then what was
// programmed before, then the older tunnel. A new claim to what others were allowed
// before comes to nothing. The sentences name who lost.
func settle(claims []claim, local []ovs.Local, before standing, name func(string) string) ([]ovs.Remote, standing, []string) {
	was := func(c claim) int {
		if before.own[c.endpoint.IP] == (holder{c.host, c.endpoint.MAC}) {
			return 0
		}
		return 1
	}
	slices.SortFunc(claims, func(x, y claim) int {
		return cmp.Or(cmp.Compare(was(x), was(y)), cmp.Compare(x.ofport, y.ofport), x.endpoint.IP.Compare(y.endpoint.IP))
	})
	ips, macs := map[netip.Addr]string{}, make(map[string]string, len(claims)) // to who has it
	for _, l := range local {
		ips[l.IP], macs[l.MAC] = thisHost, thisHost
	}
	allowed := allowedBefore(claims, local, before)
	var remotes []ovs.Remote
	var lost []string
	won := standing{own: make(map[netip.Addr]holder, len(claims)), allowed: map[sharing]bool{}}
	for _, c := range claims {
		ep := c.endpoint
		other, taken := ips[ep.IP]
		what := "address " + ep.IP.String()
		if !taken {
			other, taken = macs[ep.MAC]
			what = "MAC address " + ep.MAC
		}
		how := "has"
		if !taken && was(c) == 1 {
			if other, taken = allowedTo(allowed, ep.IP, c.host); taken {
				what, how = "address "+ep.IP.String(), "is allowed"
			}
		}
		if taken {
			if other != c.host && len(lost) < maxVerdictNotes {
				lost = append(lost, fmt.Sprintf("host %q claims %s for %q, which an endpoint of %s %s; its endpoint is not reached from here", name(c.host), what, ep.ID, shownHost(other, name), how))
			}
			continue
		}
		ips[ep.IP], macs[ep.MAC] = c.host, c.host
		won.own[ep.IP] = holder{c.host, ep.MAC}
		remotes = append(remotes, ovs.Remote{OFPort: c.ofport, MAC: ep.MAC, IP: ep.IP, Allowed: ep.Allowed})
		for _, p := range ep.Allowed {
			won.allowed[sharing{c.host, p}] = true
		}
	}
	slices.SortFunc(remotes, func(x, y ovs.Remote) int { return x.IP.Compare(y.IP) })
	return remotes, won, lost
}

// thisHost stands for this host among the ids of others.
const thisHost = "this host"

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
	if id == thisHost {
		return id
	}
	return fmt.Sprintf("host %q", name(id))
}

// usableIn says whether an endpoint can have an address in a subnet: neither the
// gateway's, nor the subnet's own, nor its broadcast address.
func usableIn(subnet netip.Prefix, gateway, ip netip.Addr) bool {
	return subnet.Contains(ip) && ip != gateway && ip != subnet.Addr() && subnet.Contains(ip.Next())
}

// settle judges the claims to one network's addresses and remembers who has them.
func (c *contests) settle(networkID string, claims []claim, local []ovs.Local, name func(string) string) (remotes []ovs.Remote, news []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	remotes, won, lost := settle(claims, local, c.won[networkID], name)
	if c.won == nil {
		c.won, c.lost = map[string]standing{}, map[string][]string{}
	}
	if !slices.Equal(lost, c.lost[networkID]) {
		news = lost
	}
	c.won[networkID], c.lost[networkID] = won, lost
	return remotes, news
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
