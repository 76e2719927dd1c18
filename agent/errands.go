package agent

import (
	"context"
	"sync"
	"time"
)

// errands are what goes on after the call that began it has returned. They
// outlive their callers, and never the agent.
type errands struct {
	ctx    context.Context // ends when the agent has waited for them long enough
	cancel context.CancelFunc

	ending chan struct{} // closed when the agent waits for them

	mu     sync.Mutex
	closed bool
	wg     sync.WaitGroup
}

func newErrands() *errands {
	e := &errands{ending: make(chan struct{})}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	return e
}

// run does f beside the caller, or, when the agent is ending, at once: then
// nobody would wait for it any more.
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

// pause waits for d, or for the agent's end: that is no time to wait in an errand.
func (e *errands) pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-e.ending:
	case <-t.C:
	}
}

// ended says whether the agent waits for its errands to end.
func (e *errands) ended() bool {
	select {
	case <-e.ending:
		return true
	default:
		return false
	}
}

// finish waits for all errands, at most for grace; then it ends them and waits
// until they have. Calls that are still under way do theirs themselves.
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
