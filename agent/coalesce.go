package agent

import (
	"context"
	"sync"
	"time"
)

// coalescer runs one function for many callers. Calls that arrive during a run share the
// next run. So a hundred concurrent attaches cost a few runs, and each caller still
// returns only after a run that began after its call.
type coalescer struct {
	timeout time.Duration // of one run
	errands *errands
	run     func(context.Context) error

	mu      sync.Mutex
	running bool
	next    *batch
}

type batch struct {
	done chan struct{}
	err  error
}

func newCoalescer(e *errands, timeout time.Duration, run func(context.Context) error) *coalescer {
	return &coalescer{timeout: timeout, errands: e, run: run}
}

// Do waits for a run that begins after this call and returns its error. If ctx ends
// first, the run continues for the other callers.
func (c *coalescer) Do(ctx context.Context) error {
	c.mu.Lock()
	if c.next == nil {
		c.next = &batch{done: make(chan struct{})}
	}
	b := c.next
	start := !c.running
	c.running = true
	c.mu.Unlock()
	if start {
		c.errands.run(c.timeout, c.once)
	}
	select {
	case <-b.done:
		return b.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// idle reports whether no run is in progress or requested.
func (c *coalescer) idle() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.running
}

// once does one run, and starts the next one if a caller waits for it. Its context is not
// that of the first caller, because others wait for the run too.
func (c *coalescer) once(ctx context.Context) {
	c.mu.Lock()
	b := c.next
	c.next = nil
	c.mu.Unlock()
	b.err = c.run(ctx)
	close(b.done)
	c.mu.Lock()
	again := c.next != nil
	c.running = again
	c.mu.Unlock()
	if again {
		c.errands.run(c.timeout, c.once)
	}
}
