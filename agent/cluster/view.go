package cluster

import (
	"context"
	"net"
	"slices"
	"sync"

	"github.com/socketplane/socketplane/agent/state"
)

// view is what gossip, store and quorum say of the servers at one moment.
type view struct {
	seats  []seat
	quorum []raftServer
	stale  []state.Entry // marks of hosts that left, and of this host, which does not
}

// look asks all three. The caller holds turns.
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
			continue // it has left; one with a record is only moving
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

// serves says whether a host is in the quorum, or should be.
func (v view) serves(host string) bool {
	return slices.ContainsFunc(v.quorum, func(s raftServer) bool { return s.ID == host }) ||
		slices.ContainsFunc(v.seats, func(s seat) bool { return s.host == host && s.server })
}

// listen takes other servers that do not answer for dead: the gossip needs some
// seconds to say so.
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
			_ = conn.Close() // only tried
		})
	}
	asking.Wait()
}

// turn says what comes next.
func (v view) turn() turn {
	leader, settling := "", false
	for _, s := range v.quorum {
		if s.Leader {
			leader = s.ID
		}
		settling = settling || !s.Voter // the last change is not done
	}
	t := nextTurn(v.seats, leader)
	if settling && t.forget == "" {
		return turn{}
	}
	return t
}
