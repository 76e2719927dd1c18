package state

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	bberrors "go.etcd.io/bbolt/errors"
)

// embeddedSession lives in this process: nobody else can be alive for it. It is
// renewed by its context not having ended, and ends ttl after that.
type embeddedSession struct {
	store *embeddedStore
	id    string
	lost  chan struct{}

	mu     sync.Mutex
	unlink func() bool // from the context
	timer  *time.Timer // runs once the context has ended
	ended  bool
}

func (e *embeddedStore) OpenSession(ctx context.Context, name string, ttl time.Duration) (Session, error) {
	if err := checkTTL(name, ttl); err != nil {
		return nil, err
	}
	if err := e.usable(ctx); err != nil {
		return nil, err
	}
	id, err := uuid.NewRandom()
	if err != nil {
		return nil, fmt.Errorf("open session %q: %w", name, err)
	}
	s := &embeddedSession{store: e, id: id.String(), lost: make(chan struct{})}
	e.mu.Lock()
	e.sessions[s.id] = s
	e.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unlink = context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if !s.ended {
			s.timer = time.AfterFunc(ttl, s.expire)
		}
	})
	return s, nil
}

func (s *embeddedSession) ID() string            { return s.id }
func (s *embeddedSession) Lost() <-chan struct{} { return s.lost }

// Close ends the session at once; keys that it held are free. Lost is not
// closed by it.
func (s *embeddedSession) Close(ctx context.Context) error {
	if err := s.store.usable(ctx); err != nil {
		return fmt.Errorf("close session %s: %w", s.id, err)
	}
	if !s.abandon() {
		return nil
	}
	if err := s.store.endSession(s.id); err != nil {
		return fmt.Errorf("close session %s: %w", s.id, err)
	}
	return nil
}

// expire is the end of a session that is renewed no more.
func (s *embeddedSession) expire() {
	if !s.abandon() {
		return
	}
	close(s.lost)
	// A file that cannot be written leaves the keys held until it is opened
	// again; the next writer hears why.
	_ = s.store.endSession(s.id)
}

// abandon ends what runs for the session; false if that was done before.
func (s *embeddedSession) abandon() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return false
	}
	s.ended = true
	s.unlink()
	if s.timer != nil {
		s.timer.Stop()
	}
	return true
}

// lives tells whether a key may be held under the session.
func (e *embeddedStore) lives(id string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.sessions[id] != nil
}

// endSession takes the session away first, inside the transaction that frees
// its keys: none can be taken for it afterwards.
func (e *embeddedStore) endSession(id string) error {
	_, err := e.update(func(c *change) error {
		e.mu.Lock()
		delete(e.sessions, id)
		e.mu.Unlock()
		return c.release(func(session string) bool { return session == id })
	})
	if errors.Is(err, bberrors.ErrDatabaseNotOpen) {
		return nil // the store was closed, which ends every session
	}
	return fault(err)
}

// Node is empty: this machine is the only one, and nobody watches it.
func (e *embeddedStore) Node(ctx context.Context) (string, error) { return "", e.usable(ctx) }

// LiveNodes is empty, as Node is.
func (e *embeddedStore) LiveNodes(ctx context.Context) ([]string, error) { return nil, e.usable(ctx) }
