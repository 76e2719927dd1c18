package agent

import (
	"context"
	"sync"
	"time"
)

// coalescer runs one function for many callers: who comes while a run is under
// way shares the next one. So a hundred attaches at once cost a few runs, and
// each caller still returns only after a run that began after its call.
type coalescer struct {
	timeout time.Duration
	run     func(context.Context) error

	mu      sync.Mutex
	running bool
	next    *batch
}

type batch struct {
	done chan struct{}
	err  error
}

func newCoalescer(timeout time.Duration, run func(context.Context) error) *coalescer {
	return &coalescer{timeout: timeout, run: run}
}

// Do waits for a run that begins after this call and gives its error. A caller
// that gives up leaves the run to the others.
func (c *coalescer) Do(ctx context.Context) error {
	c.mu.Lock()
	if c.next == nil {
		c.next = &batch{done: make(chan struct{})}
	}
	b := c.next
	if !c.running {
		c.running = true
		go c.drain(context.WithoutCancel(ctx))
	}
	c.mu.Unlock()
	select {
	case <-b.done:
		return b.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// drain runs batch after batch until none is waiting. Its context outlives the
// first caller's, since others wait for it; each run is bounded by the timeout.
func (c *coalescer) drain(ctx context.Context) {
	for {
		c.mu.Lock()
		b := c.next
		c.next = nil
		if b == nil {
			c.running = false
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
		runCtx, cancel := context.WithTimeout(ctx, c.timeout)
		b.err = c.run(runCtx)
		cancel()
		close(b.done)
	}
}
