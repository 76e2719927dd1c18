// Package agenttest provides fakes for the dependencies of the agent. The switch, the
// links and the packet filter keep their state in maps. The store wraps a real one and
// can be made unavailable. Any call can be made to fail. The fakes are for tests and
// never touch the kernel.
package agenttest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
)

// ErrFailed is the error of a call that FailAt has made fail.
var ErrFailed = errors.New("told to fail")

// Calls records the calls of several fakes and makes selected calls fail or block. The
// zero value lets all calls pass.
type Calls struct {
	mu      sync.Mutex
	names   []string
	failAt  int // index of the call, from 1; 0 for none
	applied bool
	failing map[string]error
	blocked map[string]chan struct{}
}

// Reset forgets the recorded calls and all settings.
func (c *Calls) Reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.names, c.failAt, c.failing, c.blocked = nil, 0, nil, nil
}

// Names lists the calls since the last Reset.
func (c *Calls) Names() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.names)
}

// FailAt makes the n-th call from now fail once, counted from 1. If applied is true, the
// call does its work and still fails, as if the answer had been lost.
func (c *Calls) FailAt(n int, applied bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failAt, c.applied = len(c.names)+n, applied
}

// Fail makes every call of a name fail with err. A nil err ends that.
func (c *Calls) Fail(name string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failing == nil {
		c.failing = map[string]error{}
	}
	c.failing[name] = err
}

// Block makes every call of a name wait until release is called or its context ends.
func (c *Calls) Block(name string) (release func()) {
	ch := make(chan struct{})
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.blocked == nil {
		c.blocked = map[string]chan struct{}{}
	}
	c.blocked[name] = ch
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.blocked[name] == ch {
			delete(c.blocked, name)
		}
		close(ch)
	}
}

// do records a call and does its work, unless the call is to fail.
func (c *Calls) do(ctx context.Context, name string, work func() error) error {
	c.mu.Lock()
	c.names = append(c.names, name)
	err, wait := c.failing[name], c.blocked[name]
	fail, applied := len(c.names) == c.failAt, c.applied
	c.mu.Unlock()
	if wait != nil {
		select {
		case <-wait:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return err
	}
	if !fail {
		return work()
	}
	if applied {
		if err := work(); err != nil {
			return err
		}
	}
	if strings.HasPrefix(name, "Store.") {
		return errAway
	}
	return ErrFailed
}
