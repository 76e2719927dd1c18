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

// One write changes a whole block, and a host hands out of one block at a time.
// So what callers want of a subnet is not done one after the other, each with a
// write to wait for: what has come in while a round was under way is planned
// together in the next round, and each block that it changes is written once.
// A hundred containers that start at the same moment cost a handful of writes.

// op is what one caller wants done with a subnet.
type op struct {
	ctx  context.Context
	what string // for errors: what could not be done
	// plan gives the block as it would be with the op done; nil when there is
	// nothing to write. It is asked again after each write that was lost.
	plan  func(ctx context.Context, o *op, v *view) (*block, error)
	lost  int  // writes lost to another host
	fresh bool // the whole subnet has just been read for this op
	more  bool // the block planned is not all: plan again when it is written
	done  chan error
}

// errLater is what a plan gives that has to read a block which earlier ops of
// the round mean to change: it is its turn again when that is written.
var errLater = errors.New("later")

// finish tells the caller, who may have been told already that its time is up.
func (o *op) finish(err error) {
	select {
	case o.done <- err:
	default:
	}
}

// do checks the arguments, and has plan done with the pool's subnet. When ctx
// ends first, the op may have been done all the same.
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
		return <-o.done // the round that has it knows of ctx too, and what the store said
	}
}

// serve does rounds until nobody wants anything of the subnet. There is one at a
// time for a view; it ends soon after the contexts of those who wait for it.
func (a *Allocator) serve(v *view) {
	for {
		ops := v.dequeue()
		if len(ops) == 0 {
			return
		}
		v.requeue(a.round(v, ops))
	}
}

// round plans the ops together, writes the blocks, and gives the ops that have
// to be planned again.
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
			case err != nil && o.ctx.Err() != nil: // the store heard of it as an end, whatever kind it was
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

// planAll has each op planned on top of those before it. waiting is who waits
// for the writing of which block.
func (a *Allocator) planAll(ctx context.Context, v *view, ops []*op) (waiting map[int][]*op, later []*op) {
	waiting = map[int][]*op{}
	for i, o := range ops {
		o.fresh = !v.loaded
		if err := v.load(ctx, a.store); err != nil {
			for _, o := range ops[i:] { // it would be the same for each
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

// write puts a planned block into the store, or takes it out when nobody is left
// in it. false: another was faster; the view has then been brought up to date.
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
	v.loaded = false // what was planned is not there, or was applied all the same
	return false, err
}

func (a *Allocator) put(ctx context.Context, key string, b *block) error {
	if len(b.owners) == 0 {
		if b.version == 0 {
			return nil // taken and given back in one round
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

// whileWanted gives a context that ends with the last of the ops' contexts. An
// op whose own context ends before is told so at once: the others' writes go on.
func whileWanted(ops []*op) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(context.Background())
	stops := make([]func() bool, 0, len(ops))
	var wanted atomic.Int64
	wanted.Store(int64(len(ops)))
	for _, o := range ops {
		stops = append(stops, context.AfterFunc(o.ctx, func() {
			if wanted.Add(-1) == 0 {
				cancel(context.Cause(o.ctx)) // the store's answer to that is the better error
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

// pause waits after a lost race, a random time that grows with the races lost:
// 2 ms at most after the first, 128 ms at most in the end.
func pause(ctx context.Context, lost int) {
	timer := time.NewTimer(rand.N(time.Millisecond << min(lost, 7)))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
