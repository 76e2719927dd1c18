package agent

import (
	"context"
	"sync"
	"time"
)

// errands is the work that continues after the call that started it has returned. It
// outlives the caller, but not the agent.
type errands struct {
	ctx    context.Context // ends when the agent stops waiting for the errands
	cancel context.CancelFunc

	ending chan struct{} // closed when the agent begins to wait for the errands

	mu     sync.Mutex
	closed bool
	wg     sync.WaitGroup
}

func newErrands() *errands {
	e := &errands{ending: make(chan struct{})}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	return e
}

// run starts f in the background. If the agent is ending, run calls f directly, because
// nobody would wait for the goroutine.
func (e *errands) run(timeout time.Duration, f func(context.Context)) {
	e.mu.Lock()
	closed := e.closed
	if !closed {
		e.wg.Add(1)
	}
	e.mu.Unlock()
	work := func() {
		ctx, cancel := context.WithTimeout(e.ctx, timeout)
		defer cancel()
		f(ctx)
	}
	if closed {
		work()
		return
	}
	go func() {
		defer e.wg.Done()
		work()
	}()
}

// pause waits for d, or until the agent is ending: an errand must not delay that.
func (e *errands) pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-e.ending:
	case <-t.C:
	}
}

// ended reports whether the agent has begun to wait for its errands.
func (e *errands) ended() bool {
	select {
	case <-e.ending:
		return true
	default:
		return false
	}
}

// finish waits up to grace for all errands. Then it cancels them and waits until they
// return. Calls that are still in progress run their own errands themselves.
func (e *errands) finish(grace time.Duration) {
	e.mu.Lock()
	if !e.closed {
		e.closed = true
		close(e.ending)
	}
	e.mu.Unlock()
	patience := time.AfterFunc(grace, e.cancel)
	defer patience.Stop()
	e.wg.Wait()
}
