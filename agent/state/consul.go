package state

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
)

// ConsulConfig says where a Consul is and how to speak to it. Nothing is read
// from the environment.
type ConsulConfig struct {
	Address   string // http://HOST:PORT, https://HOST:PORT or unix:///PATH
	Token     string // empty: none
	TokenFile string // holds the token instead of Token; read anew for each request, so that it can be changed
	CAFile    string // PEM; empty: the system's
	CertFile  string // PEM; this client's certificate, with KeyFile
	KeyFile   string
	Logger    *slog.Logger // nil: nothing is logged
}

// callDeadline is how long a call other than Wait may take when its context
// has no deadline.
const callDeadline = 15 * time.Second

var errClosed = errors.New("the store was closed")

// consulStore is the Store in a Consul cluster.
type consulStore struct {
	address   string
	transport *transport
	client    *api.Client
	log       *slog.Logger
	ctx       context.Context // ends with Close, which ends every call
	cancel    context.CancelCauseFunc

	mu      sync.Mutex
	watched map[string]watched // by prefix
}

var _ Store = (*consulStore)(nil)

// OpenConsul gives the state in the Consul at cfg.Address. It does not connect:
// the server may come up later. It fails when the settings make no sense or a
// file they name cannot be read.
func OpenConsul(cfg ConsulConfig) (Store, error) {
	transport, err := newTransport(cfg)
	if err != nil {
		return nil, fmt.Errorf("open consul %q: %w", withoutSecrets(cfg.Address), err)
	}
	client, err := transport.client()
	if err != nil {
		return nil, fmt.Errorf("open consul %q: %w", withoutSecrets(cfg.Address), err)
	}
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	return &consulStore{
		address: cfg.Address, transport: transport, client: client, log: log,
		ctx: ctx, cancel: cancel, watched: make(map[string]watched),
	}, nil
}

func (c *consulStore) String() string { return "consul " + c.address }

func (c *consulStore) Close() error {
	c.cancel(errClosed)
	c.transport.base.CloseIdleConnections()
	return nil
}

// begin gives a call its context: it ends with the caller's, with the store,
// and after callDeadline unless the caller set a deadline.
func (c *consulStore) begin(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	unlink := context.AfterFunc(c.ctx, func() { cancel(errClosed) })
	stop := func() {
		unlink()
		cancel(context.Canceled)
	}
	if _, ok := ctx.Deadline(); ok {
		return ctx, stop
	}
	timed, release := context.WithTimeoutCause(ctx, callDeadline, fmt.Errorf("no answer within %v", callDeadline))
	return timed, func() { release(); stop() }
}

func (c *consulStore) Get(ctx context.Context, key string) (Entry, error) {
	if err := checkKey(key); err != nil {
		return Entry{}, err
	}
	ctx, done := c.begin(ctx)
	defer done()
	var pair *api.KVPair
	err := c.read(ctx, func(ctx context.Context) (err error) {
		pair, _, err = c.client.KV().Get(key, consistent().WithContext(ctx))
		return err
	})
	if err != nil {
		return Entry{}, fmt.Errorf("get %q: %w", key, err)
	}
	if pair == nil {
		return Entry{}, fmt.Errorf("get %q: %w", key, ErrNotFound)
	}
	return entryOf(pair), nil
}

func (c *consulStore) List(ctx context.Context, prefix string) ([]Entry, error) {
	if err := checkPrefix(prefix); err != nil {
		return nil, err
	}
	ctx, done := c.begin(ctx)
	defer done()
	var snap Snapshot
	err := c.read(ctx, func(ctx context.Context) (err error) {
		snap, _, err = c.list(ctx, prefix, consistent())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list %q: %w", prefix, err)
	}
	return snap.Entries, nil
}

// consistent makes the leader ask its followers that it still leads, before it
// answers: the default mode may answer from a leader that was just deposed.
func consistent() *api.QueryOptions { return &api.QueryOptions{RequireConsistent: true} }

// list reads a prefix once. Consul leaves out what the token may not read, and
// says nothing to one without a token: what is missing for that reason must
// never look deleted, so it is an error here.
func (c *consulStore) list(ctx context.Context, prefix string, q *api.QueryOptions) (Snapshot, *api.QueryMeta, error) {
	pairs, meta, err := c.client.KV().List(prefix, q.WithContext(ctx))
	if err != nil {
		return Snapshot{}, nil, err
	}
	if meta.ResultsFilteredByACLs {
		return Snapshot{}, nil, &statusError{code: 403, body: "some keys under the prefix may not be read"}
	}
	if len(pairs) == 0 && meta.DefaultACLPolicy != "allow" {
		// Reading one key, other than a list, is refused aloud.
		if _, _, err := c.client.KV().Get(prefix, (&api.QueryOptions{AllowStale: true}).WithContext(ctx)); err != nil {
			return Snapshot{}, nil, err
		}
	}
	snap := Snapshot{Entries: make([]Entry, 0, len(pairs)), Index: max(meta.LastIndex, 1)}
	for _, pair := range pairs {
		snap.Entries = append(snap.Entries, entryOf(pair))
	}
	slices.SortFunc(snap.Entries, byKey)
	return snap, meta, nil
}

func byKey(a, b Entry) int { return strings.Compare(a.Key, b.Key) }

func entryOf(pair *api.KVPair) Entry {
	value := pair.Value
	if value == nil {
		value = []byte{} // Consul answers null for a value without bytes
	}
	return Entry{Key: pair.Key, Value: value, Version: pair.ModifyIndex, Session: pair.Session}
}
