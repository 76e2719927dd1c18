package ipam

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/socketplane/socketplane/agent/state"
)

// A write replaces a whole block, and a host allocates from one block at a time. Requests
// for a subnet are therefore not executed one by one, each with its own write. All
// requests that arrive during a round are planned together in the next round, which
// writes each changed block once. A hundred containers that start at the same moment cost
// a handful of writes.

// op is a request of one caller for a subnet.
type op struct {
	ctx  context.Context
	what string // describes the failed request in errors
	// plan returns the block with the op applied, or nil if there is nothing to write.
	// It is called again after each lost write.
	plan  func(ctx context.Context, o *op, v *view) (*block, error)
	lost  int  // number of writes lost to another host
	fresh bool // the whole subnet has just been read for this op
	more  bool // plan the op again after its block is written
	done  chan error
}

// errLater is returned by a plan that must read a block with unwritten changes of earlier
// ops. The op is planned again after that write.
var errLater = errors.New("later")

// finish reports the result to the caller, unless the op has a result already.
func (o *op) finish(err error) {
	select {
	case o.done <- err:
	default:
	}
}

// do checks the arguments and executes plan on the pool's subnet. If ctx ends first, the
// op may still have been applied.
func (a *Allocator) do(ctx context.Context, pool Pool, owner, what string, plan func(context.Context, *op, *view) (*block, error)) error {
	if err := pool.check(); err != nil {
		return err
	}
	if err := checkOwner(owner); err != nil {
		return err
	}
	v := a.view(pool.Subnet)
	o := &op{ctx: ctx, what: what, plan: plan, done: make(chan error, 1)}
	if v.enqueue(o) {
		go a.serve(v)
	}
	select {
	case err := <-o.done:
		return err
	case <-ctx.Done():
		if v.withdraw(o) {
			return fmt.Errorf("%s: %w", what, context.Cause(ctx))
		}
		return <-o.done // the round that executes the op observes ctx and has the store's error
	}
}

// serve executes rounds until no ops are left. Each view has at most one running serve.
// It returns soon after the contexts of its callers have ended.
func (a *Allocator) serve(v *view) {
	for {
		ops := v.dequeue()
		if len(ops) == 0 {
			return
		}
		v.requeue(a.round(v, ops))
	}
}

// round plans the ops together and writes the blocks. It returns the ops that must be
// planned again.
func (a *Allocator) round(v *view, ops []*op) (again []*op) {
	ops = slices.DeleteFunc(ops, func(o *op) bool {
		if o.ctx.Err() == nil {
			return false
		}
		o.finish(fmt.Errorf("%s: %w", o.what, context.Cause(o.ctx)))
		return true
	})
	if len(ops) == 0 {
		return nil
	}
	ctx, cancel := whileWanted(ops)
	defer cancel()
	waiting, again := a.planAll(ctx, v, ops)
	lost := 0
	for _, index := range slices.Sorted(maps.Keys(waiting)) {
		written, err := a.write(ctx, v, index)
		for _, o := range waiting[index] {
			switch {
			case err != nil && o.ctx.Err() != nil: // the store saw a cancellation, whatever the cause was
				o.finish(fmt.Errorf("%s: %w: %w", o.what, context.Cause(o.ctx), err))
			case err != nil:
				o.finish(fmt.Errorf("%s: %w", o.what, err))
			case !written:
				o.lost++
				lost = max(lost, o.lost)
				again = append(again, o)
			case o.more:
				again = append(again, o)
			default:
				o.finish(nil)
			}
		}
	}
	if lost > 0 {
		pause(ctx, lost)
	}
	return again
}

// planAll plans each op on top of the preceding ones. waiting maps the index of a block
// to the ops that wait for its write.
func (a *Allocator) planAll(ctx context.Context, v *view, ops []*op) (waiting map[int][]*op, later []*op) {
	waiting = map[int][]*op{}
	for i, o := range ops {
		o.fresh = !v.loaded
		if err := v.load(ctx, a.store); err != nil {
			for _, o := range ops[i:] { // all of them would get the same error
				o.finish(err)
			}
			return waiting, later
		}
		b, err := o.plan(ctx, o, v)
		switch {
		case errors.Is(err, errLater):
			later = append(later, o)
		case err != nil || b == nil:
			o.finish(err)
		default:
			v.draft(b)
			waiting[b.index] = append(waiting[b.index], o)
		}
	}
	return waiting, later
}

// write writes a planned block to the store, or deletes it if it has no owners left. It
// returns false if another host wrote first; the view is then up to date.
func (a *Allocator) write(ctx context.Context, v *view, index int) (bool, error) {
	b := *v.blocks[index]
	delete(v.drafts, index)
	key := blockKey(v.subnet, index)
	err := a.put(ctx, key, &b)
	switch {
	case err == nil && len(b.owners) == 0:
		v.put(index, nil)
		return true, nil
	case err == nil:
		v.put(index, &b)
		return true, nil
	case errors.Is(err, state.ErrConflict):
		if err = v.refresh(ctx, a.store, index); err == nil {
			return false, nil
		}
	}
	v.loaded = false // the planned change is absent, or was applied despite the error
	return false, err
}

func (a *Allocator) put(ctx context.Context, key string, b *block) error {
	if len(b.owners) == 0 {
		if b.version == 0 {
			return nil // allocated and released in one round
		}
		return a.store.Delete(ctx, key, b.version)
	}
	value, err := b.encode()
	if err != nil {
		return fmt.Errorf("encode block %q: %w", key, err)
	}
	b.version, err = a.store.CompareAndSet(ctx, key, value, b.version)
	return err
}

// whileWanted returns a context that ends when the contexts of all ops have ended. An op
// whose context ends earlier fails at once, while the writes for the others continue.
func whileWanted(ops []*op) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(context.Background())
	stops := make([]func() bool, 0, len(ops))
	var wanted atomic.Int64
	wanted.Store(int64(len(ops)))
	for _, o := range ops {
		stops = append(stops, context.AfterFunc(o.ctx, func() {
			if wanted.Add(-1) == 0 {
				cancel(context.Cause(o.ctx)) // the store's error is more specific
				return
			}
			o.finish(fmt.Errorf("%s: %w", o.what, context.Cause(o.ctx)))
		}))
	}
	return ctx, func() {
		for _, stop := range stops {
			stop()
		}
		cancel(nil)
	}
}

// pause waits for a random time after a lost race. The maximum doubles with each lost
// race, from 2 ms after the first to 128 ms.
func pause(ctx context.Context, lost int) {
	timer := time.NewTimer(rand.N(time.Millisecond << min(lost, 7)))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
