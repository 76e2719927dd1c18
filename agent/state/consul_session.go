package state

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/hashicorp/consul/api"
)

const (
	// Consul defines the range of a session's TTL.
	minTTL = 10 * time.Second
	maxTTL = 24 * time.Hour
	// lockDelay is how long no other session can hold a key after the session of its
	// holder ended. Consul's default of 15 s protects against holders that continue to
	// write. This package does not need that, because its writers compare versions. 0
	// would select the default.
	lockDelay = time.Millisecond
	// renewPause separates two attempts to renew while the server is unreachable.
	renewPause = time.Second
)

func checkTTL(name string, ttl time.Duration) error {
	if ttl < minTTL || ttl > maxTTL {
		return fmt.Errorf("%w: session %q: a ttl of %v is not within %v to %v", ErrInvalid, name, ttl, minTTL, maxTTL)
	}
	return nil
}

// consulSession is a session that depends on its TTL alone. It is not bound to the health
// of the node that opened it, because that node may be a server on another machine.
type consulSession struct {
	store *consulStore
	id    string
	ttl   time.Duration
	log   *slog.Logger
	lost  chan struct{}
	stop  context.CancelFunc
	done  chan struct{} // closed when renew has returned
}

func (c *consulStore) OpenSession(ctx context.Context, name string, ttl time.Duration) (Session, error) {
	if err := checkTTL(name, ttl); err != nil {
		return nil, err
	}
	entry := &api.SessionEntry{
		Name: name, TTL: ttl.String(), LockDelay: lockDelay, Behavior: api.SessionBehaviorRelease,
	}
	var (
		id     string
		opened time.Time
	)
	opening, done := c.begin(ctx)
	defer done()
	// A repeated create is harmless: a session whose ID was lost expires by its TTL.
	err := c.read(opening, func(ctx context.Context) (err error) {
		opened = time.Now()
		id, _, err = c.client.Session().CreateNoChecks(entry, (&api.WriteOptions{}).WithContext(ctx))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open session %q: %w", name, err)
	}
	renewing, stop := context.WithCancel(ctx)
	s := &consulSession{
		store: c, id: id, ttl: ttl, log: c.log.With("session", id),
		lost: make(chan struct{}), stop: stop, done: make(chan struct{}),
	}
	unlink := context.AfterFunc(c.ctx, stop)
	go func() {
		defer close(s.done)
		defer stop()
		defer unlink()
		s.renew(renewing, opened)
	}()
	return s, nil
}

func (s *consulSession) ID() string            { return s.id }
func (s *consulSession) Lost() <-chan struct{} { return s.lost }

// Close ends the session immediately and frees the keys that it held. It does not close
// Lost. If it fails because it cannot reach the store, the session expires by its TTL.
func (s *consulSession) Close(ctx context.Context) error {
	s.stop()
	<-s.done
	ctx, done := s.store.begin(ctx)
	defer done()
	err := s.store.read(ctx, func(ctx context.Context) error {
		_, err := s.store.client.Session().Destroy(s.id, (&api.WriteOptions{}).WithContext(ctx))
		return err
	})
	if err != nil {
		return fmt.Errorf("close session %s: %w", s.id, err)
	}
	return nil
}

// renew keeps the session alive until ctx ends or the session is lost. alive is the last
// time at which the session was known to live. That is the time before the request was
// sent, because the store counts the TTL from a later moment.
func (s *consulSession) renew(ctx context.Context, alive time.Time) {
	timer := time.NewTimer(s.ttl / 3)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		start := time.Now()
		left := alive.Add(s.ttl).Sub(start)
		if left <= 0 {
			s.lose("it could not be renewed in time")
			return
		}
		found, err := s.renewOnce(ctx, min(left, lastAttempt))
		switch {
		case ctx.Err() != nil:
			return
		case err == nil && !found:
			s.lose("the store has ended it")
			return
		case err == nil:
			alive = start
			timer.Reset(s.ttl / 3)
		default:
			s.log.Warn("session was not renewed", "err", s.store.judge(ctx, err).err)
			timer.Reset(max(0, min(renewPause, time.Until(alive.Add(s.ttl)))))
		}
	}
}

func (s *consulSession) renewOnce(ctx context.Context, within time.Duration) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	entry, _, err := s.store.client.Session().Renew(s.id, (&api.WriteOptions{}).WithContext(ctx))
	return entry != nil, err
}

// lose closes lost. Only renew calls it, and only once.
func (s *consulSession) lose(why string) {
	s.log.Warn("session is lost: " + why)
	close(s.lost)
}
