// Package state stores the key-value state of the cluster. It reads and writes keys with
// compare-and-set, watches prefixes as whole snapshots, and provides sessions that show
// which hosts are alive. It has two implementations with the same behavior: Consul for a
// cluster and an embedded file for a single host. The package does not interpret the
// values.
package state

import (
	"context"
	"errors"
	"time"
)

// Prefix is the prefix of all keys of this program. The 1 is the version of the layout.
const Prefix = "socketplane/v1/"

// Limits of both stores, which Consul defines. MaxValue is the maximum size of a value in
// bytes. MaxTxnOps is the maximum number of operations in a transaction, where OpDelete
// and an OpCAS with a Session count twice. The keys and base64-encoded values of a
// transaction, plus 320 bytes per operation, may total at most 512 KiB.
const (
	MaxValue  = 512 << 10
	MaxTxnOps = 128
)

// Sentinel errors. Every error of a Store wraps one of them or a context error.
var (
	ErrNotFound    = errors.New("key not found")
	ErrConflict    = errors.New("key was changed by another")   // a comparison failed; nothing was written
	ErrUnavailable = errors.New("the store cannot be reached")  // a write may have been applied, unless the method documents otherwise
	ErrInvalid     = errors.New("request refused by the store") // for example an invalid key, too large a value, or a missing permission
)

// Entry is a key with its value.
type Entry struct {
	Key     string
	Value   []byte
	Version uint64 // changes with every write of the key; never 0 for an existing key
	Session string // ID of the session that holds the key; empty if there is none or it has ended
}

// Snapshot is the content of a prefix at one moment.
type Snapshot struct {
	Entries []Entry // sorted by key
	Index   uint64  // index to pass to the next Wait
}

// OpKind is the kind of an Op.
type OpKind int

// Kinds of Op.
const (
	OpCAS        OpKind = iota // set Value if the key is at Version; Version 0: if the key is absent
	OpDelete                   // delete the key if it is at Version
	OpCheck                    // only check that the key is at Version; Version 0: that it is absent
	OpDeleteTree               // delete every key that begins with Key
)

// Op is one operation of a transaction.
type Op struct {
	Kind    OpKind
	Key     string
	Value   []byte
	Version uint64
	// Session, in an OpCAS, also makes the session with this ID hold the key. Txn fails
	// with ErrInvalid if the session has ended, and with ErrConflict if another live
	// session holds the key.
	Session string
}

// Store is the key-value state. All methods honor ctx. All reads except Wait are
// consistent, never stale.
type Store interface {
	// Get reads one key. It returns ErrNotFound if the key is absent.
	Get(ctx context.Context, key string) (Entry, error)
	// List returns all entries whose key begins with prefix, sorted by key.
	List(ctx context.Context, prefix string) ([]Entry, error)
	// CompareAndSet writes value if key is at version (0: absent) and returns the new
	// version; otherwise it returns ErrConflict. If the response to a write is lost,
	// CompareAndSet looks the write up before it reports a failure.
	CompareAndSet(ctx context.Context, key string, value []byte, version uint64) (uint64, error)
	// Delete removes key if it is at version. It returns ErrConflict if the key is at
	// another version or absent.
	Delete(ctx context.Context, key string, version uint64) error
	// Txn applies all ops or none. It returns ErrConflict if a comparison fails.
	Txn(ctx context.Context, ops []Op) error
	// Wait blocks until the prefix has changed since index (0: do not wait) or a time
	// that the store chooses has passed. It returns all entries of the prefix.
	Wait(ctx context.Context, prefix string, index uint64) (Snapshot, error)
	// OpenSession opens a session and renews it until ctx ends or Close. The session
	// expires between ttl and twice ttl after its last renewal. ttl is at least 10 s,
	// Consul's minimum.
	OpenSession(ctx context.Context, name string, ttl time.Duration) (Session, error)
	// Node returns the name of this machine in the store's failure detector. It returns
	// "" if there is no failure detector or if it does not watch this machine.
	Node(ctx context.Context) (string, error)
	// LiveNodes returns the names of the machines that the failure detector considers
	// alive, without those that failed or left. It returns ErrInvalid if it may not read
	// all of them.
	LiveNodes(ctx context.Context) ([]string, error)
	// String returns a name of the store for messages, without secrets.
	String() string
	Close() error
}

// Session proves that its owner is alive. Entry.Session of a key written with its ID
// shows that ID until the session ends; the key itself stays.
type Session interface {
	ID() string
	// Lost is closed when the store has ended the session or when it could not be
	// renewed in time.
	Lost() <-chan struct{}
	// Close ends the session immediately. It does not close Lost.
	Close(ctx context.Context) error
}
