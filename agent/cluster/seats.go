package cluster

import (
	"slices"
	"strings"
)

// How many servers carry a cluster: one while there are fewer than three hosts,
// since two survive nothing that one does not, and then three.
const (
	fewHosts   = 3
	manySeats  = 3
	singleSeat = 1
)

// seat is a host as those see it who decide which Consuls are servers.
type seat struct {
	host    string // id
	node    string // its name in Consul
	server  bool
	alive   bool // in the gossip
	known   bool // it has a record in the store
	leaving bool
}

// turn is the next step to the right servers; the zero turn is none. A step is
// taken by the host it is about, but for forget: that one cannot.
type turn struct {
	promote string // host that becomes a server
	demote  string // server that becomes a client
	forget  string // node that is gone for good, and still counts in the gossip
}

// nextTurn decides. Every host that sees the same decides the same.
func nextTurn(seats []seat, leader string) turn {
	seats = slices.Clone(seats)
	slices.SortFunc(seats, func(a, b seat) int { return strings.Compare(a.host, b.host) })
	var hosts, servers []seat
	leaving := false
	for _, s := range seats {
		if !s.alive && !s.known {
			return turn{forget: s.node}
		}
		if s.leaving {
			leaving = true
			continue
		}
		hosts = append(hosts, s)
		if s.server {
			servers = append(servers, s)
		}
	}
	want := singleSeat
	if len(hosts) >= fewHosts {
		want = manySeats
	}
	switch {
	case len(servers) < want:
		for _, s := range hosts {
			if !s.server && s.alive {
				return turn{promote: s.host}
			}
		}
	case len(servers) > want:
		// One that cannot be reached may come back, and one that leaves votes still:
		// nobody is sent away meanwhile.
		if leaving || slices.ContainsFunc(servers, func(s seat) bool { return !s.alive }) {
			return turn{}
		}
		for _, s := range slices.Backward(servers) {
			if s.host != leader {
				return turn{demote: s.host}
			}
		}
	}
	return turn{}
}
