package cluster

import (
	"cmp"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/socketplane/socketplane/agent/cluster/mdns"
)

const (
	maxCandidates = 64 // hosts to remember
	maxStrangers  = 8  // hosts of other clusters to remember, for messages
	maxAtOnce     = 16 // concurrent probes

	// A host whose probe failed is probed again after firstPause. The pause then doubles
	// up to maxPause.
	firstPause = 5 * time.Second
	maxPause   = time.Minute
	// fresh is how long an announcement stays valid. Queries go out once a minute.
	fresh = 150 * time.Second
)

// candidates are the hosts that announce a cluster. Other hosts on the segment can fill
// the list but not block it: a host whose probe failed makes room for a new one.
type candidates struct {
	key  []byte // key of proofs
	port int    // gossip port

	mu        sync.Mutex
	hosts     map[netip.Addr]*candidate
	strangers map[netip.Addr]time.Time // time of the last announcement
	news      chan struct{}            // signals a new host
}

type candidate struct {
	heard time.Time
	next  time.Time     // earliest time of the next probe
	pause time.Duration // pause after the next failed probe

	cluster string // cluster ID from the host's answer; empty until it has answered
}

func newCandidates(token Token, port int) (*candidates, error) {
	key, err := token.proofKey()
	if err != nil {
		return nil, err
	}
	return &candidates{
		key: key, port: port, hosts: map[netip.Addr]*candidate{}, strangers: map[netip.Addr]time.Time{},
		news: make(chan struct{}, 1),
	}, nil
}

// hear records an announcement.
func (c *candidates) hear(a mdns.Announcement) {
	what := judge(c.key, a, c.port)
	if what == notOurs {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if what == otherToken {
		if _, known := c.strangers[a.Addr]; known || len(c.strangers) < maxStrangers {
			c.strangers[a.Addr] = now
		}
		return
	}
	delete(c.strangers, a.Addr)
	if h := c.hosts[a.Addr]; h != nil {
		h.heard = now
		return
	}
	if len(c.hosts) >= maxCandidates && !c.makeRoom() {
		return
	}
	c.hosts[a.Addr] = &candidate{heard: now, next: now, pause: firstPause}
	select {
	case c.news <- struct{}{}:
	default:
	}
}

// makeRoom removes the host with the most failed probes. It returns false if no probe has
// failed.
func (c *candidates) makeRoom() bool {
	var worst netip.Addr
	most := firstPause
	for addr, h := range c.hosts {
		if h.pause > most {
			worst, most = addr, h.pause
		}
	}
	delete(c.hosts, worst)
	return worst.IsValid()
}

// due returns the hosts that may be probed now. Hosts that were never probed come first,
// in the order in which they appeared.
func (c *candidates) due() []netip.Addr {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	var list []netip.Addr
	for addr, h := range c.hosts {
		if now.Sub(h.heard) > fresh {
			delete(c.hosts, addr)
		} else if !h.next.After(now) {
			list = append(list, addr)
		}
	}
	slices.SortFunc(list, func(a, b netip.Addr) int {
		return cmp.Or(cmp.Compare(c.hosts[a].pause, c.hosts[b].pause), c.hosts[a].next.Compare(c.hosts[b].next))
	})
	return list
}

// answered records the cluster of a host that answered a probe. It also returns a host
// that is in a different cluster, if there is one.
func (c *candidates) answered(by netip.Addr, cluster string) (other netip.Addr, differs bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if h := c.hosts[by]; h != nil {
		h.cluster = cluster
	}
	for addr, h := range c.hosts {
		if h.cluster != "" && h.cluster != cluster && time.Since(h.heard) <= fresh {
			return addr, true
		}
	}
	return netip.Addr{}, false
}

// inVain records that hosts were probed and the cluster was not joined.
func (c *candidates) inVain(addrs []netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, addr := range addrs {
		if h := c.hosts[addr]; h != nil {
			h.next = time.Now().Add(h.pause)
			h.pause = min(2*h.pause, maxPause)
		}
	}
}

// others returns the hosts that announce a cluster with another token, sorted. It also
// reports whether any host has our token.
func (c *candidates) others() (strangers []netip.Addr, ours bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for addr, heard := range c.strangers {
		if time.Since(heard) > fresh {
			delete(c.strangers, addr)
			continue
		}
		strangers = append(strangers, addr)
	}
	slices.SortFunc(strangers, netip.Addr.Compare)
	return strangers, len(c.hosts) > 0
}
