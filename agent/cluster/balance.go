package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/agent/stored"
)

const (
	// seatsKey is held by the host that changes which Consuls are servers.
	seatsKey = state.Prefix + "cluster-servers"
	// leavingPrefix is where servers that are about to leave say so. Their mark
	// stays until the others see them gone: without it they would count as servers
	// until then, and another would be sent away.
	leavingPrefix = state.Prefix + "leaving/"

	// turnTimeout bounds one turn: a Consul that starts again and catches up.
	turnTimeout = 45 * time.Second
	seatTTL     = 10 * time.Second
)

// markVersion is the layout of a mark.
const markVersion = 1

// mark is the value of a key that counts by being there, or by who holds it.
type mark struct {
	Version int `json:"version"`

	Unknown stored.Unknown `json:"-"`
}

// balance takes the turn that is this host's, if any.
func (k *Keeper) balance(ctx context.Context) {
	if !k.turns.TryLock() {
		return // this host is leaving
	}
	defer k.turns.Unlock()
	place, _, store, _ := k.current()
	if store == nil || !place.Settled {
		return
	}
	members, err := k.consul.members(ctx)
	if err != nil || !k.mayTurn(members) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, turnTimeout)
	defer cancel()
	now, err := k.look(ctx, store)
	if err != nil {
		return
	}
	for _, e := range now.stale {
		_ = store.Delete(ctx, e.Key, e.Version) // tried again
	}
	if !k.mine(now.turn()) {
		return
	}
	session, err := store.OpenSession(ctx, "socketplane servers "+k.HostName, seatTTL)
	if err != nil {
		return // tried again
	}
	defer endSession(ctx, session)
	if err := hold(ctx, store, session.ID()); err != nil {
		return // it is another's turn
	}
	// What was seen before may have been changed by the one who held the key.
	if now, err = k.look(ctx, store); err != nil {
		return
	}
	if now.turn().demote == k.HostID {
		now.listen(ctx, k.HostID) // those that stay must carry on
	}
	if !k.mine(now.turn()) {
		return
	}
	if err := k.take(ctx, now.turn()); err != nil {
		k.Logger.Warn("the cluster's servers are not as they should be; trying on", "err", err)
	}
}

// mayTurn says whether this host could have a turn at all, so that only few read
// the store for it: the servers, and the client that is next.
func (k *Keeper) mayTurn(members []consulMember) bool {
	first := ""
	for _, m := range members {
		switch {
		case m.server() && m.hostID() == k.HostID:
			return true
		case !m.server() && m.Status == serfAlive && (first == "" || m.hostID() < first):
			first = m.hostID()
		}
	}
	return first == k.HostID
}

func (k *Keeper) mine(t turn) bool {
	return t.promote == k.HostID || t.demote == k.HostID || t.forget != ""
}

// hold takes the key for a session.
func hold(ctx context.Context, store state.Store, session string) error {
	e, err := store.Get(ctx, seatsKey)
	if err != nil && !errors.Is(err, state.ErrNotFound) {
		return err
	}
	if e.Session != "" && e.Session != session {
		return state.ErrConflict
	}
	var v mark
	if err := stored.Decode(e.Value, markVersion, &v); errors.Is(err, stored.ErrNewer) {
		return fmt.Errorf("key %q: %w", seatsKey, err)
	} else if err != nil {
		v = mark{} // absent, or nobody's
	}
	v.Version = markVersion
	value, err := stored.Encode(v)
	if err != nil {
		return err
	}
	return store.Txn(ctx, []state.Op{{Kind: state.OpCAS, Key: seatsKey, Value: value, Version: e.Version, Session: session}})
}

// take does a turn and waits until it is done.
func (k *Keeper) take(ctx context.Context, t turn) error {
	switch {
	case t.forget != "":
		k.Logger.Info("a host that is gone for good is taken out of Consul", "node", t.forget)
		return k.consul.forget(ctx, t.forget)
	case t.promote != "":
		k.Logger.Info("this host's Consul becomes a server")
		return k.setServer(ctx, true)
	}
	k.Logger.Info("this host's Consul becomes a client")
	return k.setServer(ctx, false)
}

// setServer makes this host's Consul a server or a client and waits until the
// others count it so.
func (k *Keeper) setServer(ctx context.Context, server bool) error {
	k.changes.Lock()
	defer k.changes.Unlock()
	place, _, _, _ := k.current()
	k.mu.Lock()
	process := k.process
	k.mu.Unlock()
	if process == nil || !place.InCluster() {
		return nil // the life ends
	}
	if !server {
		if err := k.handOver(ctx); err != nil {
			return err
		}
	}
	place.Server = server
	if err := k.change(place, ending{}, false); err != nil {
		return err
	}
	if !server {
		// It tells the others, and ends.
		if err := process.leaveSeat(ctx); err != nil {
			return err
		}
	} else {
		process.takeSeat()
	}
	return k.awaitQuorum(ctx, func(servers []raftServer) bool {
		i := slices.IndexFunc(servers, func(s raftServer) bool { return s.ID == k.HostID })
		return server && i >= 0 && servers[i].Voter || !server && i < 0
	})
}

// awaitQuorum waits until the servers are as ok wants them.
func (k *Keeper) awaitQuorum(ctx context.Context, ok func([]raftServer) bool) error {
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		servers, err := k.consul.quorum(ctx)
		if err == nil && ok(servers) {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("wait for Consul's servers: %w", ctx.Err()), err)
		case <-tick.C:
		}
	}
}

// setLeaving says to the others that a host is about to leave, or is not.
func setLeaving(ctx context.Context, store state.Store, id string, leaving bool) error {
	key := leavingPrefix + id
	e, err := store.Get(ctx, key)
	there := err == nil
	switch {
	case err != nil && !errors.Is(err, state.ErrNotFound):
		return err
	case leaving && !there:
		_, err = store.CompareAndSet(ctx, key, []byte(`{"version":1}`), 0)
	case !leaving && there:
		err = store.Delete(ctx, key, e.Version)
	default:
		return nil
	}
	if errors.Is(err, state.ErrConflict) {
		return nil // nobody else writes the key: it was us
	}
	return err
}

// sentence is an error in one line.
func sentence(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
