package cluster

import (
	"slices"
	"strings"
)

// Number of servers in a cluster: one for fewer than three hosts, because two tolerate no
// more failures than one, and otherwise three.
const (
	fewHosts   = 3
	manySeats  = 3
	singleSeat = 1
)

// seat is a host as seen by the choice of servers.
type seat struct {
	host    string // host ID
	node    string // node name in Consul
	server  bool
	alive   bool // alive in the gossip
	known   bool // has a record in the store
	leaving bool
}

// turn is the next step to the right set of servers; the zero turn is none. The affected
// host takes the step itself, except for forget, because a forgotten host cannot.
type turn struct {
	promote string // ID of a host that becomes a server
	demote  string // ID of a server that becomes a client
	forget  string // name of a node that is gone for good but still in the gossip
}

// nextTurn returns the next turn. All hosts with the same view decide the same.
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
		// An unreachable server may return, and a leaving server still votes. No server
		// is demoted until then.
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
