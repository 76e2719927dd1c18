package cluster

import (
	"context"
	"net"
	"slices"
	"sync"

	"github.com/socketplane/socketplane/agent/state"
)

// view is the state of the servers in the gossip, the store and the quorum at one moment.
type view struct {
	seats  []seat
	quorum []raftServer
	stale  []state.Entry // marks of hosts that have left, and of this host, which is not leaving
}

// look queries the gossip, the store and the quorum. The caller holds k.turns.
func (k *Keeper) look(ctx context.Context, store state.Store) (view, error) {
	members, err := k.consul.members(ctx)
	if err != nil {
		return view{}, err
	}
	records, err := store.List(ctx, HostsPrefix)
	if err != nil {
		return view{}, err
	}
	leaving, err := store.List(ctx, leavingPrefix)
	if err != nil {
		return view{}, err
	}
	quorum, err := k.consul.quorum(ctx)
	if err != nil {
		return view{}, err
	}
	has := func(list []state.Entry, key string) bool {
		return slices.ContainsFunc(list, func(e state.Entry) bool { return e.Key == key })
	}
	v := view{quorum: quorum}
	present := map[string]bool{}
	for _, m := range members {
		id := m.hostID()
		known := has(records, HostsPrefix+id)
		if id == "" || m.gone() && !known {
			continue // the host has left; a host with a record is only moving
		}
		present[id] = true
		v.seats = append(v.seats, seat{
			host: id, node: m.Name, server: m.server(), alive: m.Status == serfAlive,
			known: known, leaving: has(leaving, leavingPrefix+id),
		})
	}
	for _, e := range leaving {
		id := e.Key[len(leavingPrefix):]
		if id == k.HostID || !present[id] && !has(records, HostsPrefix+id) {
			v.stale = append(v.stale, e)
		}
	}
	return v, nil
}

// serves reports whether a host is in the quorum or should be.
func (v view) serves(host string) bool {
	return slices.ContainsFunc(v.quorum, func(s raftServer) bool { return s.ID == host }) ||
		slices.ContainsFunc(v.seats, func(s seat) bool { return s.host == host && s.server })
}

// listen marks other servers that accept no connection as dead. The gossip needs some
// seconds to detect that.
func (v view) listen(ctx context.Context, self string) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	var asking sync.WaitGroup
	for _, s := range v.quorum {
		i := slices.IndexFunc(v.seats, func(t seat) bool { return t.host == s.ID })
		if i < 0 || s.ID == self {
			continue
		}
		asking.Go(func() {
			var d net.Dialer
			conn, err := d.DialContext(ctx, "tcp", s.Address)
			if err != nil {
				v.seats[i].alive = false
				return
			}
			_ = conn.Close() // the connection was only a test
		})
	}
	asking.Wait()
}

// turn returns the next turn.
func (v view) turn() turn {
	leader, settling := "", false
	for _, s := range v.quorum {
		if s.Leader {
			leader = s.ID
		}
		settling = settling || !s.Voter // the previous change is not complete
	}
	t := nextTurn(v.seats, leader)
	if settling && t.forget == "" {
		return turn{}
	}
	return t
}
