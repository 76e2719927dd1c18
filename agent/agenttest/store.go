package agenttest

import (
	"context"
	"fmt"
	"sync"

	"github.com/socketplane/socketplane/agent/state"
)

var errAway = fmt.Errorf("%w: told to be away", state.ErrUnavailable)

// Store is a real store that can be made unavailable.
type Store struct {
	state.Store
	calls *Calls

	mu   sync.Mutex
	gone chan struct{} // closed while the store is away
	away bool
}

// NewStore wraps a real store.
func NewStore(c *Calls, real state.Store) *Store {
	return &Store{Store: real, calls: c, gone: make(chan struct{})}
}

// SetAway makes every call fail with state.ErrUnavailable, or ends that.
func (s *Store) SetAway(away bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if away == s.away {
		return
	}
	if s.away = away; away {
		close(s.gone)
	} else {
		s.gone = make(chan struct{})
	}
}

func (s *Store) do(ctx context.Context, name string, work func() error) error {
	s.mu.Lock()
	away := s.away
	s.mu.Unlock()
	if away {
		return errAway
	}
	return s.calls.do(ctx, "Store."+name, work)
}

// Get implements state.Store.
func (s *Store) Get(ctx context.Context, key string) (e state.Entry, err error) {
	err = s.do(ctx, "Get", func() (err error) { e, err = s.Store.Get(ctx, key); return err })
	return e, err
}

// List implements state.Store.
func (s *Store) List(ctx context.Context, prefix string) (list []state.Entry, err error) {
	err = s.do(ctx, "List", func() (err error) { list, err = s.Store.List(ctx, prefix); return err })
	return list, err
}

// CompareAndSet implements state.Store.
func (s *Store) CompareAndSet(ctx context.Context, key string, value []byte, version uint64) (v uint64, err error) {
	err = s.do(ctx, "CompareAndSet", func() (err error) { v, err = s.Store.CompareAndSet(ctx, key, value, version); return err })
	if err != nil {
		v = 0
	}
	return v, err
}

// Delete implements state.Store.
func (s *Store) Delete(ctx context.Context, key string, version uint64) error {
	return s.do(ctx, "Delete", func() error { return s.Store.Delete(ctx, key, version) })
}

// Txn implements state.Store.
func (s *Store) Txn(ctx context.Context, ops []state.Op) error {
	return s.do(ctx, "Txn", func() error { return s.Store.Txn(ctx, ops) })
}

// Wait implements state.Store. Calls does not record it. It fails when the store goes
// away.
func (s *Store) Wait(ctx context.Context, prefix string, index uint64) (state.Snapshot, error) {
	s.mu.Lock()
	gone := s.gone
	s.mu.Unlock()
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan struct{})
	defer close(done)
	go func() {
		select {
		case <-gone:
			cancel()
		case <-done:
		}
	}()
	snap, err := s.Store.Wait(waiting, prefix, index)
	select {
	case <-gone:
		return state.Snapshot{}, errAway
	default:
		return snap, err
	}
}
