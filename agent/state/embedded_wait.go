package state

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/bbolt"
)

// maxGraves limits how many deletions the store remembers. A Wait from an index before
// the oldest remembered one returns at once, perhaps without a change.
const maxGraves = 4096

// graves records which keys were deleted at which index. The file itself keeps no trace
// of a deletion for a Wait from an older index.
type graves struct {
	floor uint64 // deletions up to this index may be forgotten
	list  []grave
}

type grave struct {
	key   string
	index uint64
}

func (g *graves) add(index uint64, keys []string) {
	for _, key := range keys {
		g.list = append(g.list, grave{key, index})
	}
	if over := len(g.list) - maxGraves; over > 0 {
		// Half of the list goes at a time, so that not every deletion copies it.
		over += maxGraves / 2
		over = min(over, len(g.list))
		g.floor = g.list[over-1].index
		g.list = append([]grave{}, g.list[over:]...)
	}
}

// since reports whether a key under prefix may have been deleted after index.
func (g *graves) since(prefix string, index uint64) bool {
	if index < g.floor {
		return true
	}
	for i := len(g.list) - 1; i >= 0 && g.list[i].index > index; i-- {
		if strings.HasPrefix(g.list[i].key, prefix) {
			return true
		}
	}
	return false
}

// waiter is a blocked Wait.
type waiter struct {
	prefix string
	wake   chan struct{} // buffer of one
}

// announce wakes the waiters that a committed change concerns.
func (e *embeddedStore) announce(c *change) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.graves.add(c.index, c.deleted)
	for w := range e.waiters {
		if concerns(w.prefix, c.written) || concerns(w.prefix, c.deleted) {
			select {
			case w.wake <- struct{}{}:
			default: // a wakeup is already pending
			}
		}
	}
}

func concerns(prefix string, keys []string) bool {
	for _, key := range keys {
		if strings.HasPrefix(key, prefix) {
			return true
		}
	}
	return false
}

func (e *embeddedStore) Wait(ctx context.Context, prefix string, index uint64) (Snapshot, error) {
	err := checkPrefix(prefix)
	if err == nil {
		err = e.usable(ctx)
	}
	if err != nil {
		return Snapshot{}, err
	}
	snap, err := e.wait(ctx, prefix, index)
	if err != nil {
		return Snapshot{}, fmt.Errorf("wait for %q: %w", prefix, err)
	}
	return snap, nil
}

func (e *embeddedStore) wait(ctx context.Context, prefix string, index uint64) (Snapshot, error) {
	w := &waiter{prefix: prefix, wake: make(chan struct{}, 1)}
	e.mu.Lock()
	e.waiters[w] = struct{}{}
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		delete(e.waiters, w)
		e.mu.Unlock()
	}()
	timer := time.NewTimer(waitTime)
	defer timer.Stop()
	// The waiter is registered before the first check, so that no change between the two
	// is missed.
	for {
		changed, err := e.changed(prefix, index)
		if err != nil {
			return Snapshot{}, fault(err)
		}
		if changed {
			break
		}
		select {
		case <-w.wake:
			continue
		case <-timer.C:
		case <-ctx.Done():
			return Snapshot{}, ctx.Err()
		case <-e.ctx.Done():
			return Snapshot{}, fmt.Errorf("%w: %w", ErrUnavailable, errClosed)
		}
		break
	}
	snap, err := e.snapshot(prefix)
	return snap, fault(err)
}

// errFound ends a search.
var errFound = errors.New("found")

// changed reports whether the prefix has changed since index. An index beyond the store's
// own belongs to another file, so everything counts as changed.
func (e *embeddedStore) changed(prefix string, index uint64) (bool, error) {
	err := e.db.View(func(tx *bbolt.Tx) error {
		if index == 0 || index > indexOf(tx) {
			return errFound
		}
		return each(tx, prefix, func(entry Entry) error {
			if entry.Version > index {
				return errFound
			}
			return nil
		})
	})
	if errors.Is(err, errFound) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.graves.since(prefix, index), nil
}
