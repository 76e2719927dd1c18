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

// ConsulConfig holds the address of a Consul server and the settings of the connection.
// OpenConsul ignores the environment.
type ConsulConfig struct {
	Address   string // http://HOST:PORT, https://HOST:PORT or unix:///PATH
	Token     string // empty: no token
	TokenFile string // path of a file with the token, instead of Token; every request reads it, so it can change
	CAFile    string // PEM; empty: the system's CAs
	CertFile  string // PEM; the client certificate, used with KeyFile
	KeyFile   string
	Logger    *slog.Logger // nil: no logging
}

// callDeadline limits a call other than Wait whose context has no deadline.
const callDeadline = 15 * time.Second

var errClosed = errors.New("the store was closed")

// consulStore implements Store on a Consul cluster.
type consulStore struct {
	address   string
	transport *transport
	client    *api.Client
	log       *slog.Logger
	ctx       context.Context // Close cancels it, which ends every call
	cancel    context.CancelCauseFunc

	mu      sync.Mutex
	watched map[string]watched // keyed by prefix
}

var _ Store = (*consulStore)(nil)

// OpenConsul returns a Store on the Consul server at cfg.Address. It does not connect, so
// the server may start later. It fails if the settings are invalid or if it cannot read a
// file that they name.
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

// begin derives the context of a call. It ends with the caller's context, with the store,
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

// consistent requests a read for which the leader first confirms with its followers that
// it still leads. In the default mode a leader that was just deposed may answer.
func consistent() *api.QueryOptions { return &api.QueryOptions{RequireConsistent: true} }

// list reads a prefix once. Consul omits the keys that the token may not read, and does
// not even report that to a request without a token. list returns an error in both cases:
// otherwise the omitted keys would look deleted.
func (c *consulStore) list(ctx context.Context, prefix string, q *api.QueryOptions) (Snapshot, *api.QueryMeta, error) {
	pairs, meta, err := c.client.KV().List(prefix, q.WithContext(ctx))
	if err != nil {
		return Snapshot{}, nil, err
	}
	if meta.ResultsFilteredByACLs {
		return Snapshot{}, nil, &statusError{code: 403, body: "some keys under the prefix may not be read"}
	}
	if len(pairs) == 0 && meta.DefaultACLPolicy != "allow" {
		// Consul refuses to read a single key with an error, unlike a list.
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
		value = []byte{} // Consul returns null for an empty value
	}
	return Entry{Key: pair.Key, Value: value, Version: pair.ModifyIndex, Session: pair.Session}
}
