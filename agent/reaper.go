package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

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
	// reapTimeout bounds the work on one dead host.
	reapTimeout = 30 * time.Second
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

// reap takes everything of a dead host out of the store, unless another is at
// it: exactly one does so at a time. It stops when the host comes back, whose
// record has then another version.
func (a *Agent) reap(ctx context.Context, dead cluster.Host) (done bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, reapTimeout)
	defer cancel()
	lock, err := a.Store.Get(ctx, reaperKey)
	if err != nil && !errors.Is(err, state.ErrNotFound) {
		return false, err
	}
	if lock.Session != "" {
		return false, nil
	}
	session, err := a.Store.OpenSession(ctx, "socketplane reaper on "+a.host().Name, reaperTTL)
	if err != nil {
		return false, fmt.Errorf("open a session: %w", err)
	}
	defer func() {
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		defer cancel()
		if err := session.Close(ending); err != nil {
			a.Logger.Debug("the reaper's session ends by its time to live", "err", err)
		}
	}()
	value, err := encodeReaper(lock, a.id, a.host().Name)
	if err != nil {
		return false, err
	}
	err = a.Store.Txn(ctx, []state.Op{{Kind: state.OpCAS, Key: reaperKey, Value: value, Version: lock.Version, Session: session.ID()}})
	if errors.Is(err, state.ErrConflict) {
		return false, nil // another was faster
	}
	if err != nil {
		return false, err
	}
	if lock, err = a.Store.Get(ctx, reaperKey); err != nil {
		return false, err
	}
	if lock.Session != session.ID() {
		return false, nil
	}
	defer func() { // what holds the key's last version can let go of it
		_ = a.Store.Delete(ctx, reaperKey, lock.Version)
	}()
	err = Forget(ctx, a.Store, dead.ID,
		state.Op{Kind: state.OpCheck, Key: reaperKey, Version: lock.Version},
		state.Op{Kind: state.OpCheck, Key: cluster.HostsPrefix + dead.ID, Version: dead.Revision},
	)
	if errors.Is(err, errFenced) {
		return false, nil
	}
	return err == nil, err
}
