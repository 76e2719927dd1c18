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

// Store is what this package needs of the key-value state.
type Store interface {
	Get(ctx context.Context, key string) (state.Entry, error)
	List(ctx context.Context, prefix string) ([]state.Entry, error)
	Txn(ctx context.Context, ops []state.Op) error
	OpenSession(ctx context.Context, name string, ttl time.Duration) (state.Session, error)
	Node(ctx context.Context) (string, error)
}

const (
	// refreshEvery is how often a host looks whether its record is as it should
	// be: its own facts (routes, MTU, address) change, and a store can lose keys.
	refreshEvery = 10 * time.Second
	// retryEvery paces attempts to register while the store is away, or while
	// the session of an earlier life still holds the record.
	retryEvery = time.Second
	// rivalTTLs is after how many TTLs a session that still holds our record
	// is another machine's. One that nobody renews ends after two at most.
	rivalTTLs = 3
)

// errHeld means that the record is right, and not held by our session yet.
var errHeld = errors.New("the session of an earlier life holds the record of this host")

// ErrTwin means that another machine lives under this host's identity.
var ErrTwin = errors.New("another machine has this host's identity")

// Member keeps this host in the cluster.
type Member struct {
	store  Store
	self   func() (Host, error)
	ttl    time.Duration
	logger *slog.Logger
	now    func() time.Time

	session state.Session
	node    string         // what the store calls this machine
	asked   bool           // node is what it said since the session began
	mute    bool           // it could not say, and that was logged
	own     Own            // this host's record
	unknown stored.Unknown // what a later release of this host's agent has written into it
	look    chan struct{}  // see Saw
	rival   string         // session of what may be another machine with our identity
	since   time.Time

	mu       sync.Mutex
	waiting  error         // what keeps this host from being admitted; nil: nothing
	admitted chan struct{} // closed when it is
	returned chan struct{} // see Returned
}

// NewMember makes the member that self describes; self is asked again and
// again, since addresses, MTU and routes change. A host is suspected by the
// others ttl to twice ttl after its death.
func NewMember(store Store, self func() (Host, error), ttl time.Duration, logger *slog.Logger) *Member {
	return &Member{
		store: store, self: self, ttl: ttl, logger: logger, now: time.Now,
		waiting: errors.New("the store has not answered"), admitted: make(chan struct{}), returned: make(chan struct{}, 1),
		look: make(chan struct{}, 1),
	}
}

// Admitted waits until the record in the store is known to be this host's own:
// from then on nobody takes its endpoints for a dead host's, and it touches no
// other machine's. When ctx ends before that, the error says what is missing.
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

// Returned receives when this host's record was not held by it for a while:
// what it had in the store may have been given to others meanwhile. One
// listener can have it.
func (m *Member) Returned() <-chan struct{} { return m.returned }

// Saw takes what the store has as this host's record; nil: it has none. If that is
// not what this host wrote it is put right at once.
func (m *Member) Saw(record []byte) {
	if !m.own.Is(record) {
		select {
		case m.look <- struct{}{}:
		default:
		}
	}
}

// Overwritten says how often somebody else wrote or deleted this host's record, and
// when last.
func (m *Member) Overwritten() (count int, last time.Time) { return m.own.Overwritten() }

// Run registers this host and keeps its record true and its session alive
// until ctx ends. The record stays when Run ends: an agent that stops is no
// host that leaves, and its containers go on. It fails with ErrTwin only.
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

// admit keeps what the last attempt to register says for Admitted. Who has been
// admitted stays so while the store is away.
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

// pause waits for d, the loss of the session, or the end.
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
		m.own.Reset() // a host that is taken for dead loses its record in the end
		m.logger.Warn("the session of this host has ended; opening another")
		m.session = nil
	}
}

// register writes the record under a living session, if it is not there already.
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

// askNode asks the store how its failure detector calls this machine. Until it
// says so what it said last stands; where that is nothing, the others judge this
// host by its session alone, and take longer.
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

// write makes the record what it should be and holds it. An earlier life of
// this agent may hold it still, with a session that has not run out: then only
// the value is written, and the hold is taken when it is free. The record is
// never deleted, since peers would take the tunnel down.
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

// List reads all hosts consistently.
func List(ctx context.Context, store Store) ([]Host, error) {
	entries, err := store.List(ctx, HostsPrefix)
	if err != nil {
		return nil, fmt.Errorf("list the hosts: %w", err)
	}
	hosts, _ := DecodeAll(entries)
	return hosts, nil
}
