package driver

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/socketplane/socketplane/agent/api"
)

const (
	// owedEvery is the interval between attempts to release an endpoint that Docker has
	// given up.
	owedEvery = time.Second
	// owedFor bounds the attempts. After that the sweep finds the endpoint.
	owedFor = 2 * time.Minute
	// owedAtOnce bounds the number of concurrent attempts. One attempt takes seconds if
	// the switch hangs.
	owedAtOnce = 16
	// owedMost bounds the number of remembered endpoints.
	owedMost = 4096
)

// owed contains the endpoints that Docker deleted, or whose address it released, while the
// agent could not do so. Docker only logs a warning and never asks again. The key is the
// endpoint's id, which Docker never reuses; its address may belong to another endpoint by
// then.
type owed struct {
	mu   sync.Mutex
	all  map[string]time.Time // endpoint id -> end of the attempts
	wake chan struct{}
}

func newOwed() *owed { return &owed{all: map[string]time.Time{}, wake: make(chan struct{}, 1)} }

func (o *owed) add(id string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.all) < owedMost {
		o.all[id] = time.Now().Add(owedFor)
	}
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

func (o *owed) has(id string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	_, ok := o.all[id]
	return ok
}

func (o *owed) paid(id string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.all, id)
}

func (o *owed) list() map[string]time.Time {
	o.mu.Lock()
	defer o.mu.Unlock()
	return maps.Clone(o.all)
}

// payOwed releases the owed endpoints until ctx ends.
func (d *Driver) payOwed(ctx context.Context) {
	tick := time.NewTicker(owedEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.owed.wake:
		}
		for all := d.owed.list(); len(all) > 0; all = d.owed.list() {
			var g errgroup.Group
			g.SetLimit(owedAtOnce)
			for _, id := range slices.Sorted(maps.Keys(all)) {
				g.Go(func() error { d.pay(ctx, id, all[id]); return nil })
			}
			_ = g.Wait()
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	}
}

func (d *Driver) pay(ctx context.Context, id string, until time.Time) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := d.Service.Release(ctx, id)
	switch {
	case err == nil:
		d.Logger.Info("released what Docker gave back in vain", "endpoint", id)
	case time.Now().After(until), final(err):
		d.Logger.Warn("an endpoint whose address Docker gave back stays until the next comparison", "endpoint", id, "err", err)
	default:
		return
	}
	d.owed.paid(id)
}

// final reports whether a retry cannot succeed.
func final(err error) bool {
	switch api.CodeOf(err) {
	case api.CodeInvalid, api.CodeNotFound:
		return true
	}
	return false
}
