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
	// reaperKey is held by who takes a dead host's things out of the store. Its
	// version is in every transaction that does: the one who lost it, and does
	// not know yet, writes nothing more.
	reaperKey = state.Prefix + "reaper"
	// reaperTTL is how long a reaper that died keeps others from it, at most twice.
	reaperTTL = 10 * time.Second
	// reapTimeout bounds the work on one dead host, and the wait for the lock.
	reapTimeout = 30 * time.Second
	// reapAtOnce is how many dead hosts are worked on side by side.
	reapAtOnce = 8
)

// reaperRecord is the value of reaperKey, for people.
type reaperRecord struct {
	Version int    `json:"version"`
	Host    string `json:"host"`
	Name    string `json:"name"`

	Unknown stored.Unknown `json:"-"`
}

// reaperVersion is the layout of a reaperRecord.
const reaperVersion = 1

// encodeReaper gives the value with which a host takes the key that lock is of. It
// keeps what a later release has written there; a layout that this release does not
// know is an error.
func encodeReaper(lock state.Entry, host, name string) ([]byte, error) {
	var r reaperRecord
	if err := stored.Decode(lock.Value, reaperVersion, &r); errors.Is(err, stored.ErrNewer) {
		return nil, fmt.Errorf("key %q: %w", reaperKey, err)
	} else if err != nil {
		r = reaperRecord{} // absent, or nobody's
	}
	r.Version, r.Host, r.Name = reaperVersion, host, name
	return stored.Encode(r)
}

// reapSoon gives up what dead hosts had, beside the caller, unless that is under way:
// then the next look sees them again.
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

// reap takes everything of dead hosts out of the store, unless another is at it:
// exactly one does so at a time. The work on a host stops when it comes back, whose
// record has then another version.
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

// reapOne takes a dead host out of the store. The caller holds the lock.
func (a *Agent) reapOne(ctx context.Context, store ForgetStore, h cluster.Host, lock state.Entry) {
	ctx, cancel := context.WithTimeout(ctx, reapTimeout)
	defer cancel()
	err := Forget(ctx, store, h.ID,
		state.Op{Kind: state.OpCheck, Key: reaperKey, Version: lock.Version},
		state.Op{Kind: state.OpCheck, Key: cluster.HostsPrefix + h.ID, Version: h.Revision},
	)
	switch {
	case errors.Is(err, errFenced): // it is back, or another is at it
	case err != nil:
		a.Logger.Warn("what a dead host had cannot be given up; trying on", "peer", h.Name, "id", h.ID, "err", err)
	default:
		a.Logger.Warn("a host did not come back: its endpoints, addresses and record are given up", "peer", h.Name, "id", h.ID)
	}
}

// lockReaper takes the lock of who reaps; unlock is nil when another has it.
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
		if lock.Session == session.ID() { // what holds the key's last version can let go of it
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
