package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/agent/stored"
)

// Store is the part of the key-value state that this package uses.
type Store interface {
	Get(ctx context.Context, key string) (state.Entry, error)
	List(ctx context.Context, prefix string) ([]state.Entry, error)
	Txn(ctx context.Context, ops []state.Op) error
	OpenSession(ctx context.Context, name string, ttl time.Duration) (state.Session, error)
	Node(ctx context.Context) (string, error)
}

const (
	// refreshEvery is how often a host checks its record, because its routes, MTU and
	// address can change and a store can lose keys.
	refreshEvery = 10 * time.Second
	// retryEvery separates attempts to register while the store is unreachable, or while
	// the session of an earlier run still holds the record.
	retryEvery = time.Second
	// rivalTTLs is the number of TTLs after which a session that still holds this host's
	// record must belong to another machine. A session without renewals ends after at
	// most two TTLs.
	rivalTTLs = 3
)

// errHeld reports that the record is correct but not held by this session yet.
var errHeld = errors.New("the session of an earlier life holds the record of this host")

// ErrTwin reports that another live machine uses this host's identity.
var ErrTwin = errors.New("another machine has this host's identity")

// Member keeps this host registered in the cluster.
type Member struct {
	store  Store
	self   func() (Host, error)
	ttl    time.Duration
	logger *slog.Logger
	now    func() time.Time

	session state.Session
	node    string         // this machine's name in the store's failure detector
	asked   bool           // the store returned node since the session began
	mute    bool           // the store failed to return node, and that was logged
	own     Own            // values of this host's record
	unknown stored.Unknown // members that a later release of this host's agent wrote to the record
	look    chan struct{}  // signals a foreign value, see Saw
	rival   string         // session of a machine that may have this host's identity
	since   time.Time

	mu       sync.Mutex
	waiting  error         // why this host is not admitted yet; nil: it is admitted
	admitted chan struct{} // closed on admission
	returned chan struct{} // see Returned
}

// NewMember returns a Member for the host that self describes. It calls self repeatedly,
// because addresses, MTU and routes change. Other hosts suspect this host ttl to twice
// ttl after its death.
func NewMember(store Store, self func() (Host, error), ttl time.Duration, logger *slog.Logger) *Member {
	return &Member{
		store: store, self: self, ttl: ttl, logger: logger, now: time.Now,
		waiting: errors.New("the store has not answered"), admitted: make(chan struct{}), returned: make(chan struct{}, 1),
		look: make(chan struct{}, 1),
	}
}

// Admitted waits until the record in the store is known to be this host's own. From then
// on no host takes its endpoints for those of a dead host, and it does not touch the
// endpoints of another machine. If ctx ends first, the error names the missing condition.
func (m *Member) Admitted(ctx context.Context) error {
	select {
	case <-m.admitted:
		return nil
	case <-ctx.Done():
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.waiting == nil {
		return nil
	}
	return fmt.Errorf("this host is not registered: %w", m.waiting)
}

// Returned receives a value if this host's record was not held for some time, so its
// state in the store may have been given to other hosts. Only one listener may use it.
func (m *Member) Returned() <-chan struct{} { return m.returned }

// Saw checks record, the value of this host's record in the store (nil: absent). If this
// host did not write it, Member corrects it immediately.
func (m *Member) Saw(record []byte) {
	if !m.own.Is(record) {
		select {
		case m.look <- struct{}{}:
		default:
		}
	}
}

// Overwritten returns how often and when last another program wrote or deleted this
// host's record.
func (m *Member) Overwritten() (count int, last time.Time) { return m.own.Overwritten() }

// Run registers this host, and keeps its record up to date and its session alive until
// ctx ends. The record stays when Run returns, because a stopped agent does not mean that
// the host leaves: its containers continue. The only error is ErrTwin.
func (m *Member) Run(ctx context.Context) error {
	failing := false
	for ctx.Err() == nil {
		wait := refreshEvery
		err := m.register(ctx)
		m.admit(err)
		switch {
		case ctx.Err() != nil:
		case errors.Is(err, ErrTwin):
			return err
		case errors.Is(err, errHeld), errors.Is(err, errDoubt):
			wait = retryEvery
		case err != nil:
			if !failing {
				m.logger.Warn("this host cannot be registered; trying on", "err", err)
			}
			failing, wait = true, retryEvery
		case failing:
			failing = false
			m.logger.Info("this host is registered again")
		}
		m.pause(ctx, wait)
	}
	return nil
}

// admit records the result of the last attempt to register for Admitted. An admitted host
// stays admitted while the store is unreachable.
func (m *Member) admit(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.waiting == nil:
	case err == nil, errors.Is(err, errHeld):
		m.waiting = nil
		close(m.admitted)
	default:
		m.waiting = err
	}
}

// pause waits for d, for the loss of the session, for a foreign record, or until ctx
// ends.
func (m *Member) pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	var lost <-chan struct{}
	if m.session != nil {
		lost = m.session.Lost()
	}
	select {
	case <-ctx.Done():
	case <-t.C:
	case <-m.look:
	case <-lost:
		m.own.Reset() // the other hosts eventually remove the record of a host that they consider dead
		m.logger.Warn("the session of this host has ended; opening another")
		m.session = nil
	}
}

// register writes the record under a live session, unless it is there already.
func (m *Member) register(ctx context.Context) error {
	self, err := m.self()
	if err != nil {
		return err
	}
	if m.session == nil {
		s, err := m.store.OpenSession(ctx, "socketplane "+self.Name, m.ttl)
		if err != nil {
			return fmt.Errorf("open a session: %w", err)
		}
		m.session, m.asked = s, false
	}
	m.askNode(ctx)
	self.Node = m.node
	err = m.write(ctx, self)
	if err != nil && !errors.Is(err, errHeld) && !errors.Is(err, errDoubt) && !errors.Is(err, ErrTwin) {
		return fmt.Errorf("write the record of this host: %w", err)
	}
	return err
}

// askNode gets this machine's name in the store's failure detector. After an error it
// keeps the previous name. Without a name the other hosts judge this host by its session
// alone, which takes longer.
func (m *Member) askNode(ctx context.Context) {
	if m.asked {
		return
	}
	node, err := m.store.Node(ctx)
	if err == nil {
		m.node, m.asked, m.mute = node, true, false
		return
	}
	if !m.mute && ctx.Err() == nil {
		m.logger.Warn("it is not known how the store's failure detector calls this machine; trying on", "err", err)
	}
	m.mute = true
}

// write updates the record and holds it. The session of an earlier run of this agent may
// hold the record until it expires. write then updates only the value, and a later call
// holds the record. It never deletes the record, because peers would remove the tunnel.
func (m *Member) write(ctx context.Context, self Host) error {
	key := HostsPrefix + self.ID
	old, err := m.store.Get(ctx, key)
	if err != nil && !errors.Is(err, state.ErrNotFound) {
		return err
	}
	if m.own.FromBefore() && old.Version != 0 {
		was, err := Decode(old)
		if errors.Is(err, stored.ErrNewer) {
			return fmt.Errorf("%w; or, if that is not to come back, delete the key", err)
		}
		m.unknown = was.Unknown
	}
	self.Unknown = m.unknown
	value, err := self.encode()
	if err != nil {
		return fmt.Errorf("encode the record of this host: %w", err)
	}
	if m.own.Foreign(old.Value, old.Version, m.now()) {
		m.logger.Error("somebody else wrote the record of this host; it is put right", "key", key, "version", old.Version, "value", fmt.Sprintf("%.300q", old.Value))
	}
	op := state.Op{Kind: state.OpCAS, Key: key, Value: value, Version: old.Version}
	held := old.Session != "" && old.Session != m.session.ID()
	if held {
		if err := m.compare(self, old); err != nil {
			return err
		}
	} else {
		m.rival = ""
		op.Session = m.session.ID()
	}
	if !bytes.Equal(old.Value, value) || old.Session == "" {
		m.own.Try(value)
		if err := m.store.Txn(ctx, []state.Op{op}); err != nil {
			return err
		}
	}
	m.own.Wrote(value)
	if old.Session == "" {
		select {
		case m.returned <- struct{}{}:
		default:
		}
	}
	if held {
		return errHeld
	}
	return nil
}

// List returns all hosts with a consistent read.
func List(ctx context.Context, store Store) ([]Host, error) {
	entries, err := store.List(ctx, HostsPrefix)
	if err != nil {
		return nil, fmt.Errorf("list the hosts: %w", err)
	}
	hosts, _ := DecodeAll(entries)
	return hosts, nil
}
