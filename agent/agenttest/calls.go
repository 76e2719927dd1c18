// Package agenttest owns stand-ins for what the agent puts to work: a switch,
// links, a packet filter, each of which keeps its state in maps, and a store
// that can be away. They can be told to fail at any call. They are for tests,
// and never touch the kernel.
package agenttest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
)

// ErrFailed is what a call fails with that was told to.
var ErrFailed = errors.New("told to fail")

// Calls counts the calls of several stand-ins and says which of them fail or
// wait. The zero value lets all pass.
type Calls struct {
	mu      sync.Mutex
	names   []string
	failAt  int // counted from 1; 0: none
	applied bool
	failing map[string]error
	blocked map[string]chan struct{}
}

// Reset forgets all that was called and told.
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

// FailAt makes the n-th call from now fail once, counted from 1. applied: it
// does its work, and fails all the same, as when an answer is lost.
func (c *Calls) FailAt(n int, applied bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failAt, c.applied = len(c.names)+n, applied
}

// Fail makes every call of a name fail with err, until it is told nil.
func (c *Calls) Fail(name string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failing == nil {
		c.failing = map[string]error{}
	}
	c.failing[name] = err
}

// Block makes every call of a name wait until release is called.
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

// do counts a call and does its work, or not.
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
