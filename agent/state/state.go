// Package state owns the key-value state of the cluster: it reads and writes
// keys with compare-and-set, watches prefixes as whole snapshots, and keeps
// sessions that tell who is alive. It has two implementations that behave the
// same, Consul for a cluster and an embedded file for a single host, and it
// never knows what the values mean.
package state

import (
	"context"
	"errors"
	"time"
)

// Prefix is under which every key of ours lies; 1 is the version of the layout.
const Prefix = "socketplane/v1/"

// Limits that hold for both stores. Consul sets them: a value is at most
// 512 KiB and a transaction holds at most 128 operations, where OpDelete and an
// OpCAS with a Session count twice. A transaction's keys, base64-encoded values
// and 320 bytes an operation together are at most 512 KiB.
const (
	MaxValue  = 512 << 10
	MaxTxnOps = 128
)

// Sentinel errors. Everything a Store returns wraps one of them or a context error.
var (
	ErrNotFound    = errors.New("key not found")
	ErrConflict    = errors.New("key was changed by another")   // a compare failed; nothing was written
	ErrUnavailable = errors.New("the store cannot be reached")  // it is not known whether a write was applied, unless the call says so
	ErrInvalid     = errors.New("request refused by the store") // bad key, too large a value, permission
)

// Entry is a key with its value.
type Entry struct {
	Key     string
	Value   []byte
	Version uint64 // changes with every write of the key; never 0 for a key that exists
	Session string // id of the session that holds the key; empty: none, or it has ended
}

// Snapshot is a whole prefix at one moment.
type Snapshot struct {
	Entries []Entry // sorted by key
	Index   uint64  // give it to the next Wait
}

// OpKind is what an Op does.
type OpKind int

// The kinds of Op.
const (
	OpCAS        OpKind = iota // set Value if the key is at Version; Version 0: if it is not there
	OpDelete                   // delete if the key is at Version
	OpCheck                    // only check that the key is at Version; Version 0: that it is not there
	OpDeleteTree               // delete every key that begins with Key
)

// Op is one step of a transaction.
type Op struct {
	Kind    OpKind
	Key     string
	Value   []byte
	Version uint64
	Session string // OpCAS: also hold the key under this session; ErrInvalid if it has ended, ErrConflict if another that lives holds the key
}

// Store is the key-value state. All methods honour ctx. Reads are consistent,
// never stale, except Wait.
type Store interface {
	// Get reads one key; ErrNotFound when it is absent.
	Get(ctx context.Context, key string) (Entry, error)
	// List reads all keys that begin with prefix, sorted by key.
	List(ctx context.Context, prefix string) ([]Entry, error)
	// CompareAndSet writes value if key is at version (0: absent) and returns the
	// new version; else ErrConflict. A write whose answer was lost is looked up
	// before it is called failed.
	CompareAndSet(ctx context.Context, key string, value []byte, version uint64) (uint64, error)
	// Delete removes key if it is at version; ErrConflict when it is at another
	// or gone.
	Delete(ctx context.Context, key string, version uint64) error
	// Txn applies all ops or none; ErrConflict when a compare fails.
	Txn(ctx context.Context, ops []Op) error
	// Wait blocks until the prefix is not as it was at index (0: do not wait) or
	// a time of the store's choosing has passed, and returns it whole.
	Wait(ctx context.Context, prefix string, index uint64) (Snapshot, error)
	// OpenSession starts a session that ends ttl (at least 10 s, Consul's floor)
	// to twice ttl after its last renewal. It is renewed until ctx ends or Close.
	OpenSession(ctx context.Context, name string, ttl time.Duration) (Session, error)
	// Node names this machine as the store's own failure detector knows it; empty
	// where there is none, or none that watches this machine.
	Node(ctx context.Context) (string, error)
	// LiveNodes names the machines that the failure detector hears of; whoever has
	// failed or left is not among them. ErrInvalid when it may not tell of all.
	LiveNodes(ctx context.Context) ([]string, error)
	// String names the store for people, without secrets.
	String() string
	Close() error
}

// Session is a proof of life. Keys written with its ID show it in Entry.Session
// until it ends; they themselves stay.
type Session interface {
	ID() string
	// Lost is closed when the store has ended the session, or it could not be renewed in time.
	Lost() <-chan struct{}
	// Close ends the session at once. It does not close Lost.
	Close(ctx context.Context) error
}
