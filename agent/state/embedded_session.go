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

// embeddedSession is a session of this process. It stays alive while its context does,
// and expires ttl after the context ended.
type embeddedSession struct {
	store *embeddedStore
	id    string
	lost  chan struct{}

	mu     sync.Mutex
	unlink func() bool // detaches the session from its context
	timer  *time.Timer // started when the context ends
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

// Close ends the session immediately and frees the keys that it held. It does not close
// Lost.
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

// expire ends a session whose context ended ttl ago.
func (s *embeddedSession) expire() {
	if !s.abandon() {
		return
	}
	close(s.lost)
	// If the file cannot be written, the keys stay held until the file is opened again.
	// The next write reports the error.
	_ = s.store.endSession(s.id)
}

// abandon marks the session as ended and stops its callbacks. It returns false if the
// session had ended already.
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

// lives reports whether the session can hold a key.
func (e *embeddedStore) lives(id string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.sessions[id] != nil
}

// endSession removes the session inside the transaction that frees its keys. No key can
// be locked under the session afterwards.
func (e *embeddedStore) endSession(id string) error {
	_, err := e.update(func(c *change) error {
		e.mu.Lock()
		delete(e.sessions, id)
		e.mu.Unlock()
		return c.release(func(session string) bool { return session == id })
	})
	if errors.Is(err, bberrors.ErrDatabaseNotOpen) {
		return nil // the store is closed, which ends every session
	}
	return fault(err)
}

// Node returns "": this machine is the only one, and no failure detector watches it.
func (e *embeddedStore) Node(ctx context.Context) (string, error) { return "", e.usable(ctx) }

// LiveNodes returns nil, as there is no failure detector.
func (e *embeddedStore) LiveNodes(ctx context.Context) ([]string, error) { return nil, e.usable(ctx) }
