package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/socketplane/socketplane/agent/cluster"
	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/agent/stored"
)

const (
	// reaperKey is the lock of the host that removes dead hosts from the store. Every
	// transaction of the removal checks its version, so a host that has lost the lock
	// without noticing can write nothing more.
	reaperKey = state.Prefix + "reaper"
	// reaperTTL is the TTL of the reaper's session. The lock of a reaper that died blocks
	// others for that long, or at most twice as long.
	reaperTTL = 10 * time.Second
	// reapTimeout bounds the work on one dead host, and the wait for the lock.
	reapTimeout = 30 * time.Second
	// reapAtOnce bounds how many dead hosts are handled concurrently.
	reapAtOnce = 8
)

// reaperRecord is the value of reaperKey. It is for users to read.
type reaperRecord struct {
	Version int    `json:"version"`
	Host    string `json:"host"`
	Name    string `json:"name"`

	Unknown stored.Unknown `json:"-"`
}

// reaperVersion is the layout version of reaperRecord.
const reaperVersion = 1

// encodeReaper returns the value with which a host takes the lock. It keeps what a later
// release wrote there, and fails if the layout is newer than this release knows.
func encodeReaper(lock state.Entry, host, name string) ([]byte, error) {
	var r reaperRecord
	if err := stored.Decode(lock.Value, reaperVersion, &r); errors.Is(err, stored.ErrNewer) {
		return nil, fmt.Errorf("key %q: %w", reaperKey, err)
	} else if err != nil {
		r = reaperRecord{} // absent or unreadable
	}
	r.Version, r.Host, r.Name = reaperVersion, host, name
	return stored.Encode(r)
}

// reapSoon removes dead hosts from the store in the background. If a removal is already
// in progress, it does nothing: the next check finds the hosts again.
func (a *Agent) reapSoon(dead []cluster.Host) {
	if len(dead) == 0 || !a.reaping.CompareAndSwap(false, true) {
		return
	}
	rounds := time.Duration(1 + (len(dead)+reapAtOnce-1)/reapAtOnce)
	a.errands.run(rounds*reapTimeout, func(ctx context.Context) {
		defer a.reaping.Store(false)
		if err := a.reap(ctx, dead); err != nil && ctx.Err() == nil {
			a.Logger.Warn("what dead hosts had cannot be given up; trying on", "hosts", len(dead), "err", err)
		}
	})
}

// reap removes everything of dead hosts from the store, unless another host is doing so.
// Only one host at a time may. The work on a host stops if that host returns, because the
// version of its record then changes.
func (a *Agent) reap(ctx context.Context, dead []cluster.Host) error {
	lock, unlock, err := a.lockReaper(ctx)
	if err != nil || unlock == nil {
		return err
	}
	defer unlock()
	store := &listedOnce{ForgetStore: a.Store, lists: map[string][]state.Entry{}}
	var g errgroup.Group
	g.SetLimit(reapAtOnce)
	for _, h := range dead {
		g.Go(func() error {
			a.reapOne(ctx, store, h, lock)
			return nil
		})
	}
	return g.Wait()
}

// reapOne removes a dead host from the store. The caller holds the lock.
func (a *Agent) reapOne(ctx context.Context, store ForgetStore, h cluster.Host, lock state.Entry) {
	ctx, cancel := context.WithTimeout(ctx, reapTimeout)
	defer cancel()
	err := Forget(ctx, store, h.ID,
		state.Op{Kind: state.OpCheck, Key: reaperKey, Version: lock.Version},
		state.Op{Kind: state.OpCheck, Key: cluster.HostsPrefix + h.ID, Version: h.Revision},
	)
	switch {
	case errors.Is(err, errFenced): // the host is back, or another reaper has the lock
	case err != nil:
		a.Logger.Warn("what a dead host had cannot be given up; trying on", "peer", h.Name, "id", h.ID, "err", err)
	default:
		a.Logger.Warn("a host did not come back: its endpoints, addresses and record are given up", "peer", h.Name, "id", h.ID)
	}
}

// lockReaper takes the reaper lock. unlock is nil if another host holds it.
func (a *Agent) lockReaper(ctx context.Context) (lock state.Entry, unlock func(), err error) {
	held := ctx // of the session
	ctx, cancel := context.WithTimeout(ctx, reapTimeout)
	defer cancel()
	lock, err = a.Store.Get(ctx, reaperKey)
	if err != nil && !errors.Is(err, state.ErrNotFound) {
		return lock, nil, err
	}
	if lock.Session != "" {
		return lock, nil, nil
	}
	session, err := a.Store.OpenSession(held, "socketplane reaper on "+a.host().Name, reaperTTL)
	if err != nil {
		return lock, nil, fmt.Errorf("open a session: %w", err)
	}
	end := func() {
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		defer cancel()
		if lock.Session == session.ID() { // only the session with the key's latest version may delete it
			_ = a.Store.Delete(ending, reaperKey, lock.Version)
		}
		if err := session.Close(ending); err != nil {
			a.Logger.Debug("the reaper's session ends by its time to live", "err", err)
		}
	}
	value, err := encodeReaper(lock, a.id, a.host().Name)
	if err != nil {
		end()
		return lock, nil, err
	}
	err = a.Store.Txn(ctx, []state.Op{{Kind: state.OpCAS, Key: reaperKey, Value: value, Version: lock.Version, Session: session.ID()}})
	if err == nil {
		lock, err = a.Store.Get(ctx, reaperKey)
	}
	if errors.Is(err, state.ErrConflict) || err == nil && lock.Session != session.ID() {
		end()
		return lock, nil, nil // another was faster
	}
	if err != nil {
		end()
		return lock, nil, err
	}
	return lock, end, nil
}
