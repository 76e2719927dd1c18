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
	maxCandidates = 64 // hosts that are remembered
	maxStrangers  = 8  // hosts of other clusters that are remembered, to be named
	maxAtOnce     = 16 // probes under way

	// A host that was asked in vain is asked again after firstPause, then ever
	// more rarely.
	firstPause = 5 * time.Second
	maxPause   = time.Minute
	// fresh is how long an announcement is remembered: questions come once a minute.
	fresh = 150 * time.Second
)

// candidates are the hosts that announce a cluster. What others on the segment
// say can fill it and no more: a host that was asked in vain makes room for one
// that was not.
type candidates struct {
	key  []byte // of proofs
	port int    // of gossip

	mu        sync.Mutex
	hosts     map[netip.Addr]*candidate
	strangers map[netip.Addr]time.Time // when they were heard
	news      chan struct{}            // there is a new one
}

type candidate struct {
	heard time.Time
	next  time.Time     // it may be asked then
	pause time.Duration // after it was asked in vain once more

	cluster string // that it said it is in; empty: it has not answered yet
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

// hear takes an announcement.
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

// makeRoom forgets the host that was asked in vain most often.
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

// due gives the hosts that may be asked now, those that never were first, in the
// order in which they came.
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

// answered remembers of which cluster a host is that was asked, and gives another
// one that was found to be of another cluster, if there is one.
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

// inVain remembers that hosts were asked and the cluster was not joined.
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

// others lists, sorted, the hosts that announce a cluster with another token, and
// says whether there is any with ours.
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
