package state

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/hashicorp/consul/api"
)

const (
	// waitTime is how long a server holds a Wait in which nothing happens, a
	// sixteenth more by its own jitter. It also bounds how long a watch stays
	// deaf to a server whose index has gone backwards (restored from a backup):
	// such a server waits for an index that it has yet to reach.
	waitTime = 45 * time.Second
	// waitGrace is how much later than that the answer is given up.
	waitGrace = 30 * time.Second
)

// watched is what the last Wait for a prefix left behind.
type watched struct {
	emptyAt uint64 // the index it was empty at; 0: it was not
	failed  bool   // there was no answer: the server may have another history since
}

// Wait reads stale: any server answers it, from what it has. An answer that is
// older than index is not believed, because a server that has just come back
// knows nothing yet, and its emptiness must not look like deletion: it is read
// again, consistently. The same goes for the first read, and for the first
// after a failure.
func (c *consulStore) Wait(ctx context.Context, prefix string, index uint64) (Snapshot, error) {
	if err := checkPrefix(prefix); err != nil {
		return Snapshot{}, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(context.Canceled)
	defer context.AfterFunc(c.ctx, func() { cancel(errClosed) })()

	c.mu.Lock()
	last := c.watched[prefix]
	c.mu.Unlock()
	if last.failed {
		index = 0
	}
	snap, err := c.waitChange(ctx, prefix, index, last.emptyAt)

	// The caller's own end of the call says nothing about the server.
	next := watched{failed: err != nil && (last.failed || ctx.Err() == nil)}
	if err != nil && !next.failed {
		next.emptyAt = last.emptyAt
	}
	if err == nil && len(snap.Entries) == 0 {
		next.emptyAt = snap.Index
	}
	c.mu.Lock()
	c.watched[prefix] = next
	if next == (watched{}) {
		delete(c.watched, prefix)
	}
	c.mu.Unlock()
	if err != nil {
		return Snapshot{}, fmt.Errorf("wait for %q: %w", prefix, err)
	}
	return snap, nil
}

func (c *consulStore) waitChange(ctx context.Context, prefix string, index, emptyAt uint64) (Snapshot, error) {
	wasEmpty := index == emptyAt
	for index != 0 {
		snap, believed, err := c.block(ctx, prefix, index)
		if ctx.Err() != nil {
			return Snapshot{}, c.ended(ctx, false)
		}
		if err != nil || !believed {
			break
		}
		if snap.Index == index || !wasEmpty || len(snap.Entries) != 0 {
			return snap, nil
		}
		// The index of an empty prefix is that of all keys: it moves with
		// every write anywhere.
		index = snap.Index
	}
	var snap Snapshot
	err := c.read(ctx, func(ctx context.Context) (err error) {
		snap, _, err = c.list(ctx, prefix, consistent())
		return err
	})
	return snap, err
}

// block is one blocking query. An answer from a server without a leader, or
// from before index, is not to be believed.
func (c *consulStore) block(ctx context.Context, prefix string, index uint64) (snap Snapshot, believed bool, err error) {
	// Up to a tenth less, so that the watchers of a quiet cluster do not come all at once.
	wait := waitTime - rand.N(waitTime/10)
	ctx, cancel := context.WithTimeoutCause(ctx, wait+wait/16+waitGrace, errors.New("no answer to a blocking query"))
	defer cancel()
	snap, meta, err := c.list(ctx, prefix, &api.QueryOptions{AllowStale: true, WaitIndex: index, WaitTime: wait})
	if err != nil {
		return Snapshot{}, false, err
	}
	return snap, meta.KnownLeader && snap.Index >= index, nil
}
