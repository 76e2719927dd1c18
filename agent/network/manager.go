package network

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/agent/stored"
)

// Store is the part of the key-value state that a Manager uses; state.Store implements
// it.
type Store interface {
	Get(ctx context.Context, key string) (state.Entry, error)
	List(ctx context.Context, prefix string) ([]state.Entry, error)
	CompareAndSet(ctx context.Context, key string, value []byte, version uint64) (uint64, error)
	Txn(ctx context.Context, ops []state.Op) error
}

// HostRoute is a route of a host. No network may overlap it.
type HostRoute struct {
	Host   string // the host's name, for messages
	Prefix netip.Prefix
}

// Config configures a Manager.
type Config struct {
	Store  Store
	Logger *slog.Logger // nil: no logging
	// Routes returns the routes of all hosts, except those that this program's networks
	// created. nil: there are none.
	Routes func(ctx context.Context) ([]HostRoute, error)
	// Host is this host's ID, stored with the subnets that it reserves.
	Host string
	// Alive returns the IDs of the live hosts. nil: only this host is alive.
	Alive func(ctx context.Context) (map[string]bool, error)
}

// Manager creates, finds and deletes networks. Several goroutines, and several hosts on
// one store, may do so concurrently.
type Manager struct {
	store  Store
	log    *slog.Logger
	routes func(ctx context.Context) ([]HostRoute, error)
	host   string
	life   string // identifies this Manager, see reservation
	alive  func(ctx context.Context) (map[string]bool, error)
	left   leftAlone
}

// New returns a Manager.
func New(cfg Config) *Manager {
	m := &Manager{store: cfg.Store, log: cfg.Logger, routes: cfg.Routes, host: cfg.Host, life: crand.Text(), alive: cfg.Alive}
	if m.log == nil {
		m.log = slog.New(slog.DiscardHandler)
	}
	if m.routes == nil {
		m.routes = func(context.Context) ([]HostRoute, error) { return nil, nil }
	}
	if m.alive == nil {
		m.alive = func(context.Context) (map[string]bool, error) { return nil, nil }
	}
	return m
}

// Get returns a network with a consistent read. It returns ErrNotFound for a network that
// is being deleted.
func (m *Manager) Get(ctx context.Context, name string) (Record, error) {
	rec, err := m.read(ctx, name)
	if err == nil && rec.Deleting {
		return Record{}, refuse(ErrNotFound, "network %q is being deleted; create it anew with `socketplane network create %s`", name, name)
	}
	return rec, err
}

// read is Get that also returns a network that is being deleted.
func (m *Manager) read(ctx context.Context, name string) (Record, error) {
	if err := api.CheckNetworkName(name); err != nil {
		return Record{}, err
	}
	e, err := m.store.Get(ctx, Key(name))
	if errors.Is(err, state.ErrNotFound) {
		return Record{}, refuse(ErrNotFound, "network %q does not exist; create it with `socketplane network create %s`", name, name)
	}
	if err != nil {
		return Record{}, fmt.Errorf("network %q: %w", name, err)
	}
	return Decode(e)
}

// List returns all networks with a consistent read, sorted by name, except those that are
// being deleted. The second result has a BadRecordError for each undecodable value. Such
// a value does not affect the other networks.
func (m *Manager) List(ctx context.Context) ([]Record, []error, error) {
	entries, err := m.store.List(ctx, NetworksPrefix)
	if err != nil {
		return nil, nil, fmt.Errorf("list networks: %w", err)
	}
	var (
		records []Record
		bad     []error
	)
	for _, e := range entries {
		rec, err := Decode(e)
		switch {
		case err != nil:
			bad = append(bad, err)
		case !rec.Deleting:
			records = append(records, rec)
		}
	}
	return records, bad, nil
}

// bump returns the operation that increments the generation. It conflicts if another
// creation or deletion happens between this read and the transaction.
func (m *Manager) bump(ctx context.Context) (state.Op, error) {
	var v generationValue
	e, err := m.store.Get(ctx, GenerationKey)
	switch {
	case errors.Is(err, state.ErrNotFound):
		v.Version = layout
	case err != nil:
		return state.Op{}, fmt.Errorf("read generation of networks: %w", err)
	default:
		if err := stored.Decode(e.Value, layout, &v); err != nil {
			return state.Op{}, &BadRecordError{Key: e.Key, Cause: err}
		}
	}
	v.Generation++
	value, err := encode("generation", v)
	return state.Op{Kind: state.OpCAS, Key: GenerationKey, Value: value, Version: e.Version}, err
}

// pause waits for a random time after a lost race. The maximum doubles with each lost
// race, from 2 ms after the first to 128 ms.
func pause(ctx context.Context, lost int) error {
	timer := time.NewTimer(rand.N(2 * time.Millisecond << min(lost, 6)))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
