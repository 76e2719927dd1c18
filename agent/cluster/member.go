package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/socketplane/socketplane/agent/state"
)

// Store is what this package needs of the key-value state.
type Store interface {
	Get(ctx context.Context, key string) (state.Entry, error)
	List(ctx context.Context, prefix string) ([]state.Entry, error)
	Txn(ctx context.Context, ops []state.Op) error
	OpenSession(ctx context.Context, name string, ttl time.Duration) (state.Session, error)
}

const (
	// refreshEvery is how often a host looks whether its own facts (routes, MTU,
	// address) still are what its record says.
	refreshEvery = 10 * time.Second
	// retryEvery paces attempts to register while the store is away.
	retryEvery = time.Second
)

// Member keeps this host in the cluster.
type Member struct {
	store  Store
	self   func() (Host, error)
	ttl    time.Duration
	logger *slog.Logger

	written []byte // the record as we last wrote it
	session state.Session
}

// NewMember makes the member that self describes; self is asked again and
// again, since addresses, MTU and routes change. A host is suspected by the
// others ttl to twice ttl after its death.
func NewMember(store Store, self func() (Host, error), ttl time.Duration, logger *slog.Logger) *Member {
	return &Member{store: store, self: self, ttl: ttl, logger: logger}
}

// Run registers this host and keeps its record true and its session alive
// until ctx ends. The record stays when Run ends: an agent that stops is no
// host that leaves, and its containers go on.
func (m *Member) Run(ctx context.Context) error {
	failing := false
	for ctx.Err() == nil {
		wait := refreshEvery
		if err := m.register(ctx); err != nil && ctx.Err() == nil {
			if !failing {
				m.logger.Warn("this host cannot be registered; trying on", "err", err)
			}
			failing, wait = true, retryEvery
		} else if failing && err == nil {
			failing = false
			m.logger.Info("this host is registered again")
		}
		m.pause(ctx, wait)
	}
	return nil
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
	case <-lost:
		m.logger.Warn("the session of this host has ended; opening another")
		m.session, m.written = nil, nil
	}
}

// register writes the record under a living session, if it is not there already.
func (m *Member) register(ctx context.Context) error {
	self, err := m.self()
	if err != nil {
		return err
	}
	value, err := self.encode()
	if err != nil {
		return fmt.Errorf("encode the record of this host: %w", err)
	}
	if m.session != nil && bytes.Equal(value, m.written) {
		return nil
	}
	if m.session == nil {
		s, err := m.store.OpenSession(ctx, "socketplane "+self.Name, m.ttl)
		if err != nil {
			return fmt.Errorf("open a session: %w", err)
		}
		m.session = s
	}
	if err := m.write(ctx, HostsPrefix+self.ID, value); err != nil {
		return fmt.Errorf("write the record of this host: %w", err)
	}
	m.written = value
	return nil
}

// write replaces the record, whoever holds it: an earlier life of this agent
// may hold it still, with a session that has not run out. That takes one
// transaction, since peers would take the tunnel down if they saw the record gone.
func (m *Member) write(ctx context.Context, key string, value []byte) error {
	old, err := m.store.Get(ctx, key)
	if err != nil && !errors.Is(err, state.ErrNotFound) {
		return err
	}
	var ops []state.Op
	if old.Session != "" && old.Session != m.session.ID() {
		ops = append(ops, state.Op{Kind: state.OpDelete, Key: key, Version: old.Version})
		old = state.Entry{}
	}
	return m.store.Txn(ctx, append(ops, state.Op{
		Kind: state.OpCAS, Key: key, Value: value, Version: old.Version, Session: m.session.ID(),
	}))
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
