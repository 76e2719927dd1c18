// Package statetest provides an in-memory state.Store for the tests of packages that use
// a store. It follows the contract of the real stores and persists nothing. The agent
// never uses it.
package statetest

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/socketplane/socketplane/agent/state"
)

// waitAtMost is how long Wait blocks on a prefix that does not change.
const waitAtMost = 5 * time.Second

// Memory is an in-memory state.Store. Several users may share one.
type Memory struct {
	mu       sync.Mutex
	index    uint64
	entries  map[string]state.Entry
	changed  map[string]uint64 // key -> index of its last change, including deletions
	wake     chan struct{}     // closed and replaced at every change
	sessions int
	live     []string
}

var _ state.Store = (*Memory)(nil)

// New returns an empty store.
func New() *Memory {
	return &Memory{
		entries: map[string]state.Entry{},
		changed: map[string]uint64{},
		wake:    make(chan struct{}),
	}
}

// Get implements state.Store.
func (m *Memory) Get(ctx context.Context, key string) (state.Entry, error) {
	if err := ctx.Err(); err != nil {
		return state.Entry{}, fmt.Errorf("get %q: %w", key, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.entries[key]
	if !ok {
		return state.Entry{}, fmt.Errorf("get %q: %w", key, state.ErrNotFound)
	}
	return clone(e), nil
}

// List implements state.Store.
func (m *Memory) List(ctx context.Context, prefix string) ([]state.Entry, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("list %q: %w", prefix, err)
	}
	if prefix == "" {
		return nil, fmt.Errorf("%w: the prefix is empty", state.ErrInvalid)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.list(prefix), nil
}

func (m *Memory) list(prefix string) []state.Entry {
	var found []state.Entry
	for key, e := range m.entries {
		if strings.HasPrefix(key, prefix) {
			found = append(found, clone(e))
		}
	}
	slices.SortFunc(found, func(a, b state.Entry) int { return strings.Compare(a.Key, b.Key) })
	return found
}

// CompareAndSet implements state.Store.
func (m *Memory) CompareAndSet(ctx context.Context, key string, value []byte, version uint64) (uint64, error) {
	index, err := m.apply(ctx, []state.Op{{Kind: state.OpCAS, Key: key, Value: value, Version: version}})
	if err != nil {
		return 0, fmt.Errorf("set %q: %w", key, err)
	}
	return index, nil
}

// Delete implements state.Store.
func (m *Memory) Delete(ctx context.Context, key string, version uint64) error {
	if _, err := m.apply(ctx, []state.Op{{Kind: state.OpDelete, Key: key, Version: version}}); err != nil {
		return fmt.Errorf("delete %q: %w", key, err)
	}
	return nil
}

// Txn implements state.Store.
func (m *Memory) Txn(ctx context.Context, ops []state.Op) error {
	if _, err := m.apply(ctx, ops); err != nil {
		return fmt.Errorf("transaction of %d: %w", len(ops), err)
	}
	return nil
}

func (m *Memory) apply(ctx context.Context, ops []state.Op) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if err := check(ops); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, op := range ops {
		at := m.entries[op.Key].Version
		if op.Kind != state.OpDeleteTree && (at != op.Version || (op.Kind == state.OpDelete && at == 0)) {
			return 0, fmt.Errorf("%w: %q", state.ErrConflict, op.Key)
		}
	}
	m.index++
	for _, op := range ops {
		switch op.Kind {
		case state.OpCAS:
			m.entries[op.Key] = state.Entry{Key: op.Key, Value: slices.Clone(op.Value), Version: m.index, Session: op.Session}
			m.changed[op.Key] = m.index
		case state.OpDelete:
			delete(m.entries, op.Key)
			m.changed[op.Key] = m.index
		case state.OpDeleteTree:
			for key := range m.entries {
				if strings.HasPrefix(key, op.Key) {
					delete(m.entries, key)
					m.changed[key] = m.index
				}
			}
		case state.OpCheck:
		}
	}
	close(m.wake)
	m.wake = make(chan struct{})
	return m.index, nil
}

// check rejects the mistakes that a caller is likely to make and that the real stores
// reject.
func check(ops []state.Op) error {
	if len(ops) > state.MaxTxnOps {
		return fmt.Errorf("%w: %d operations", state.ErrInvalid, len(ops))
	}
	written := map[string]bool{}
	for _, op := range ops {
		switch {
		case op.Key == "" || (op.Kind != state.OpDeleteTree && strings.HasSuffix(op.Key, "/")):
			return fmt.Errorf("%w: key %q is empty or ends with a slash", state.ErrInvalid, op.Key)
		case len(op.Value) > state.MaxValue:
			return fmt.Errorf("%w: the value of key %q has %d bytes", state.ErrInvalid, op.Key, len(op.Value))
		case written[op.Key]:
			return fmt.Errorf("%w: the transaction writes key %q twice", state.ErrInvalid, op.Key)
		}
		written[op.Key] = op.Kind == state.OpCAS || op.Kind == state.OpDelete
	}
	return nil
}

// Wait implements state.Store.
func (m *Memory) Wait(ctx context.Context, prefix string, index uint64) (state.Snapshot, error) {
	if prefix == "" {
		return state.Snapshot{}, fmt.Errorf("%w: the prefix is empty", state.ErrInvalid)
	}
	timer := time.NewTimer(waitAtMost)
	defer timer.Stop()
	for expired := false; ; {
		m.mu.Lock()
		if expired || index == 0 || index > m.index || m.changedSince(prefix, index) {
			snap := state.Snapshot{Entries: m.list(prefix), Index: max(m.index, 1)}
			m.mu.Unlock()
			return snap, nil
		}
		wake := m.wake
		m.mu.Unlock()
		select {
		case <-ctx.Done():
			return state.Snapshot{}, fmt.Errorf("wait for %q: %w", prefix, ctx.Err())
		case <-wake:
		case <-timer.C:
			expired = true
		}
	}
}

func (m *Memory) changedSince(prefix string, index uint64) bool {
	for key, at := range m.changed {
		if at > index && strings.HasPrefix(key, prefix) {
			return true
		}
	}
	return false
}

// OpenSession implements state.Store. It ignores ttl: nothing prevents a renewal, so the
// session lives until ctx ends or Close.
func (m *Memory) OpenSession(ctx context.Context, _ string, _ time.Duration) (state.Session, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("open session: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sessions++
	s := &session{store: m, id: strconv.Itoa(m.sessions), lost: make(chan struct{})}
	s.stop = context.AfterFunc(ctx, s.end)
	return s, nil
}

// Node implements state.Store.
func (m *Memory) Node(ctx context.Context) (string, error) { return "memory", ctx.Err() }

// LiveNodes implements state.Store.
func (m *Memory) LiveNodes(ctx context.Context) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]string{"memory"}, m.live...), ctx.Err()
}

// SetLive sets the nodes that are alive besides this one.
func (m *Memory) SetLive(nodes ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.live = nodes
}

// String implements state.Store.
func (m *Memory) String() string { return "memory" }

// Close implements state.Store.
func (m *Memory) Close() error { return nil }

type session struct {
	store *Memory
	id    string
	lost  chan struct{}
	once  sync.Once
	stop  func() bool
}

func (s *session) ID() string            { return s.id }
func (s *session) Lost() <-chan struct{} { return s.lost }

func (s *session) Close(context.Context) error {
	s.stop()
	s.end()
	return nil
}

// end releases the keys of the session without deleting them.
func (s *session) end() {
	s.once.Do(func() {
		m := s.store
		m.mu.Lock()
		defer m.mu.Unlock()
		m.index++
		for key, e := range m.entries {
			if e.Session == s.id {
				e.Session, e.Version = "", m.index
				m.entries[key] = e
				m.changed[key] = m.index
			}
		}
		close(m.wake)
		m.wake = make(chan struct{})
		close(s.lost)
	})
}

func clone(e state.Entry) state.Entry {
	e.Value = slices.Clone(e.Value)
	return e
}
