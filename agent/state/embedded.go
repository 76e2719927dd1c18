package state

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	bberrors "go.etcd.io/bbolt/errors"
)

// openTimeout is how long another process may hold the file.
const openTimeout = time.Second

var (
	bucketKeys = []byte("keys")  // key -> record
	bucketMeta = []byte("meta")  // the two below
	keyIndex   = []byte("index") // of the last change, 8 bytes big endian
	keyFormat  = []byte("format")
	format     = []byte("1")
)

// embeddedStore is the Store in a file of this host. One index counts the
// changes of the whole store, as Raft's does for Consul: a key's version is the
// index of its last change.
type embeddedStore struct {
	db     *bbolt.DB
	ctx    context.Context // ends with Close, which ends every call
	cancel context.CancelCauseFunc

	writing sync.Mutex // from the begin of a change until it is announced

	mu       sync.Mutex
	waiters  map[*waiter]struct{}
	graves   graves
	sessions map[string]*embeddedSession // that live, by id
}

var _ Store = (*embeddedStore)(nil)

// OpenEmbedded gives the state in the file at path, which it makes (0600, and
// its directory 0700) if there is none. One process at a time can have it: it
// fails with ErrUnavailable when another does. Sessions do not outlive the
// process, so no key is held when it returns.
func OpenEmbedded(path string) (Store, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("open state file: %w", err)
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: openTimeout})
	switch {
	case errors.Is(err, bberrors.ErrTimeout):
		return nil, fmt.Errorf("open state file %q: %w: another process has it open", path, ErrUnavailable)
	case err != nil:
		return nil, fmt.Errorf("open state file %q: %w", path, err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	e := &embeddedStore{
		db: db, ctx: ctx, cancel: cancel,
		waiters: make(map[*waiter]struct{}), sessions: make(map[string]*embeddedSession),
	}
	// The mode given to Open is that of a new file only.
	if err := errors.Join(os.Chmod(path, 0o600), e.load()); err != nil {
		return nil, fmt.Errorf("open state file %q: %w", path, errors.Join(err, db.Close()))
	}
	return e, nil
}

// load makes the buckets, and frees the keys that sessions of the last process held.
func (e *embeddedStore) load() error {
	return e.db.Update(func(tx *bbolt.Tx) error {
		meta, err := tx.CreateBucketIfNotExists(bucketMeta)
		if err != nil {
			return err
		}
		if _, err := tx.CreateBucketIfNotExists(bucketKeys); err != nil {
			return err
		}
		switch found := meta.Get(keyFormat); {
		case found == nil:
			if err := meta.Put(keyFormat, format); err != nil {
				return err
			}
		case string(found) != string(format):
			return fmt.Errorf("it has format %q, and this program knows %q", found, format)
		}
		c := newChange(tx)
		if err := c.release(func(string) bool { return true }); err != nil {
			return err
		}
		if err := c.finish(); err != nil {
			return err
		}
		// What was deleted before is not known: an older index is out of date.
		e.graves.floor = c.index
		return nil
	})
}

func (e *embeddedStore) String() string { return "embedded" }

func (e *embeddedStore) Close() error {
	e.cancel(errClosed)
	e.mu.Lock()
	sessions := e.sessions
	e.sessions = make(map[string]*embeddedSession)
	e.mu.Unlock()
	for _, s := range sessions {
		s.abandon()
	}
	if err := e.db.Close(); err != nil {
		return fmt.Errorf("close state file: %w", err)
	}
	return nil
}

// usable tells whether a call may begin.
func (e *embeddedStore) usable(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if e.ctx.Err() != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, errClosed)
	}
	return nil
}

// fault is an error of a bbolt transaction: one of ours, or the file's.
func fault(err error) error {
	if err == nil || errors.Is(err, ErrConflict) || errors.Is(err, ErrInvalid) || errors.Is(err, ErrNotFound) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

func (e *embeddedStore) Get(ctx context.Context, key string) (Entry, error) {
	err := checkKey(key)
	if err == nil {
		err = e.usable(ctx)
	}
	if err != nil {
		return Entry{}, err
	}
	var entry Entry
	err = e.db.View(func(tx *bbolt.Tx) error {
		data := tx.Bucket(bucketKeys).Get([]byte(key))
		if data == nil {
			return ErrNotFound
		}
		entry, err = decodeRecord([]byte(key), data)
		return err
	})
	if err != nil {
		return Entry{}, fmt.Errorf("get %q: %w", key, fault(err))
	}
	return entry, nil
}

func (e *embeddedStore) List(ctx context.Context, prefix string) ([]Entry, error) {
	err := checkPrefix(prefix)
	if err == nil {
		err = e.usable(ctx)
	}
	if err != nil {
		return nil, err
	}
	snap, err := e.snapshot(prefix)
	if err != nil {
		return nil, fmt.Errorf("list %q: %w", prefix, fault(err))
	}
	return snap.Entries, nil
}

// snapshot reads a prefix and the store's index at one moment.
func (e *embeddedStore) snapshot(prefix string) (Snapshot, error) {
	snap := Snapshot{Entries: []Entry{}}
	err := e.db.View(func(tx *bbolt.Tx) error {
		snap.Index = indexOf(tx)
		return each(tx, prefix, func(entry Entry) error {
			snap.Entries = append(snap.Entries, entry)
			return nil
		})
	})
	return snap, err
}

// indexOf is the index of the last change; at least 1, as 0 asks not to wait.
func indexOf(tx *bbolt.Tx) uint64 {
	if data := tx.Bucket(bucketMeta).Get(keyIndex); len(data) == 8 {
		return binary.BigEndian.Uint64(data)
	}
	return 1
}
