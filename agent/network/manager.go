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

// Store is what a Manager needs of the key-value state; state.Store is one.
type Store interface {
	Get(ctx context.Context, key string) (state.Entry, error)
	List(ctx context.Context, prefix string) ([]state.Entry, error)
	CompareAndSet(ctx context.Context, key string, value []byte, version uint64) (uint64, error)
	Txn(ctx context.Context, ops []state.Op) error
}

// HostRoute is a route that a host has; no network may overlap it.
type HostRoute struct {
	Host   string // its name, for people
	Prefix netip.Prefix
}

// Config is what a Manager works with.
type Config struct {
	Store  Store
	Logger *slog.Logger // nil: silent
	// Routes gives the routes of all hosts, without those that a network of ours
	// made. nil: there are none.
	Routes func(ctx context.Context) ([]HostRoute, error)
	// Host is this host's id, beside the subnets that it reserves.
	Host string
	// Alive gives the ids of the hosts that live. nil: none but this one.
	Alive func(ctx context.Context) (map[string]bool, error)
}

// Manager creates, finds and deletes networks. Several goroutines, and several
// hosts on one store, may do so at once.
type Manager struct {
	store  Store
	log    *slog.Logger
	routes func(ctx context.Context) ([]HostRoute, error)
	host   string
	life   string // of this Manager, see reservation
	alive  func(ctx context.Context) (map[string]bool, error)
}

// New makes a Manager.
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

// Get reads a network consistently. One that is being deleted is ErrNotFound.
func (m *Manager) Get(ctx context.Context, name string) (Record, error) {
	rec, err := m.read(ctx, name)
	if err == nil && rec.Deleting {
		return Record{}, refuse(ErrNotFound, "network %q is being deleted; create it anew with `socketplane network create %s`", name, name)
	}
	return rec, err
}

// read is Get that also gives a network that is being deleted.
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

// List reads all networks consistently, sorted by name, without those that are
// being deleted. The second result has a BadRecordError for each value that
// cannot be decoded; they hide nothing else.
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

// bump is the operation that advances the generation; it conflicts when another
// creation or deletion came in between this read and the transaction.
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

// pause waits after a lost race, a random time that grows with the races lost:
// 4 ms at most after the first, 128 ms at most in the end.
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
