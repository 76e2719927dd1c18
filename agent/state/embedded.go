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

// openTimeout is how long OpenEmbedded waits for another process to release the file.
const openTimeout = time.Second

var (
	bucketKeys = []byte("keys")  // key -> record
	bucketMeta = []byte("meta")  // holds keyIndex and keyFormat
	keyIndex   = []byte("index") // index of the last change, 8 bytes big endian
	keyFormat  = []byte("format")
	format     = []byte("1")
)

// embeddedStore implements Store in a local file. One index counts the changes of the
// whole store, like Consul's Raft index. The version of a key is the index of its last
// change.
type embeddedStore struct {
	db     *bbolt.DB
	ctx    context.Context // Close cancels it, which ends every call
	cancel context.CancelCauseFunc

	writing sync.Mutex // held from the start of a change until its announcement

	mu       sync.Mutex
	waiters  map[*waiter]struct{}
	graves   graves
	sessions map[string]*embeddedSession // live sessions, by ID
}

var _ Store = (*embeddedStore)(nil)

// OpenEmbedded opens the store in the file at path. It creates a missing file with mode
// 0600 and a missing directory with mode 0700. Only one process can open the file:
// OpenEmbedded fails with ErrUnavailable if another has it open. Sessions do not outlive
// the process, so it frees all held keys before it returns.
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
	// bbolt.Open applies the mode only to a new file.
	if err := errors.Join(os.Chmod(path, 0o600), e.load()); err != nil {
		return nil, fmt.Errorf("open state file %q: %w", path, errors.Join(err, db.Close()))
	}
	return e, nil
}

// load creates the buckets and frees the keys that sessions of the previous process held.
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
		// Earlier deletions are unknown, so every older index counts as outdated.
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

// usable returns an error if ctx has ended or the store is closed.
func (e *embeddedStore) usable(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if e.ctx.Err() != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, errClosed)
	}
	return nil
}

// fault wraps an error of a bbolt transaction in ErrUnavailable, unless it is a sentinel
// error of this package.
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

// snapshot reads a prefix and the store's index in one transaction.
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

// indexOf returns the index of the last change. It is at least 1, because Wait with index
// 0 does not wait.
func indexOf(tx *bbolt.Tx) uint64 {
	if data := tx.Bucket(bucketMeta).Get(keyIndex); len(data) == 8 {
		return binary.BigEndian.Uint64(data)
	}
	return 1
}
