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
	// seatsKey is held by the host that changes which Consul agents are servers.
	seatsKey = state.Prefix + "cluster-servers"
	// leavingPrefix holds the marks of servers that are about to leave. A mark stays
	// until the other hosts see that the server is gone. Without it they would still
	// count the server, and demote another one.
	leavingPrefix = state.Prefix + "leaving/"

	// turnTimeout limits one turn, in which a Consul restarts and catches up.
	turnTimeout = 45 * time.Second
	seatTTL     = 10 * time.Second
)

// markVersion is the layout version of a mark.
const markVersion = 1

// mark is the value of a key that matters only by its existence or its holder.
type mark struct {
	Version int `json:"version"`

	Unknown stored.Unknown `json:"-"`
}

// balance takes this host's turn, if it has one.
func (k *Keeper) balance(ctx context.Context) {
	if !k.turns.tryEnter() {
		return // this host is leaving
	}
	defer k.turns.leave()
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
		_ = store.Delete(ctx, e.Key, e.Version) // a later call retries
	}
	if !k.mine(now.turn()) {
		return
	}
	session, err := store.OpenSession(ctx, "socketplane servers "+k.HostName, seatTTL)
	if err != nil {
		return // a later call retries
	}
	defer endSession(ctx, session)
	if err := hold(ctx, store, session.ID()); err != nil {
		return // another host has the turn
	}
	// The host that held the key before may have changed the state since the first look.
	if now, err = k.look(ctx, store); err != nil {
		return
	}
	if now.turn().demote == k.HostID {
		now.listen(ctx, k.HostID) // the remaining servers must be able to continue
	}
	if !k.mine(now.turn()) {
		return
	}
	if err := k.take(ctx, now.turn()); err != nil {
		k.Logger.Warn("the cluster's servers are not as they should be; trying on", "err", err)
	}
}

// mayTurn reports whether this host can have a turn at all. Only servers and the client
// with the lowest host ID can, so only few hosts read the store.
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

// hold makes the session hold seatsKey.
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
		v = mark{} // the value is absent or invalid
	}
	v.Version = markVersion
	value, err := stored.Encode(v)
	if err != nil {
		return err
	}
	return store.Txn(ctx, []state.Op{{Kind: state.OpCAS, Key: seatsKey, Value: value, Version: e.Version, Session: session}})
}

// take executes a turn and waits until it is complete.
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

// setServer makes this host's Consul a server or a client. It waits until the quorum
// reflects that.
func (k *Keeper) setServer(ctx context.Context, server bool) error {
	if err := k.changes.enter(ctx); err != nil {
		return err
	}
	defer k.changes.leave()
	place, _, _, _ := k.current()
	k.mu.Lock()
	process := k.process
	k.mu.Unlock()
	if process == nil || !place.InCluster() {
		return nil // the run is ending
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
		// Consul announces that it leaves, and exits.
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

// awaitQuorum waits until ok accepts the servers of the quorum.
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

// setLeaving sets or removes the mark that a host is about to leave.
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
		return nil // only this host writes the key, so an earlier attempt succeeded
	}
	return err
}

// sentence returns the text of err in one line.
func sentence(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
