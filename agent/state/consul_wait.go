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
	// waitTime is how long a server holds a Wait without changes; its own jitter adds up
	// to a sixteenth. waitTime also limits how long a watch misses changes after a
	// server was restored from a backup: its index went backwards, and it blocks until
	// it reaches the old one.
	waitTime = 45 * time.Second
	// waitGrace is the time beyond the server's limit after which the client abandons
	// the query.
	waitGrace = 30 * time.Second
)

// watched is the state that the last Wait for a prefix recorded.
type watched struct {
	emptyAt uint64 // index at which the prefix was empty; 0: it was not empty
	failed  bool   // the last Wait failed, so the server's history may be another one since
}

// Wait uses stale reads, so any server can answer from its own data. A server that just
// restarted may not have loaded its data yet, and its empty answer must not look like a
// deletion. Wait therefore rejects an answer older than index and repeats it as a
// consistent read. The first read, and the first after a failure, are consistent too.
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

	// An error caused by the caller's context shows nothing about the server.
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
		// The index of an empty prefix is the index of all keys, so it advances with
		// every write to any key.
		index = snap.Index
	}
	var snap Snapshot
	err := c.read(ctx, func(ctx context.Context) (err error) {
		snap, _, err = c.list(ctx, prefix, consistent())
		return err
	})
	return snap, err
}

// block performs one blocking query. It returns believed false if the server has no
// leader or its answer is older than index.
func (c *consulStore) block(ctx context.Context, prefix string, index uint64) (snap Snapshot, believed bool, err error) {
	// The wait is up to a tenth shorter, so that the watchers of a quiet cluster do not
	// all return at once.
	wait := waitTime - rand.N(waitTime/10)
	ctx, cancel := context.WithTimeoutCause(ctx, wait+wait/16+waitGrace, errors.New("no answer to a blocking query"))
	defer cancel()
	snap, meta, err := c.list(ctx, prefix, &api.QueryOptions{AllowStale: true, WaitIndex: index, WaitTime: wait})
	if err != nil {
		return Snapshot{}, false, err
	}
	return snap, meta.KnownLeader && snap.Index >= index, nil
}
