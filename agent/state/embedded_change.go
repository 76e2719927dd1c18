package state

import (
	"context"
	"encoding/binary"
	"fmt"

	"go.etcd.io/bbolt"
)

func (e *embeddedStore) CompareAndSet(ctx context.Context, key string, value []byte, version uint64) (uint64, error) {
	err := checkKey(key)
	if err == nil {
		err = checkValue(key, value)
	}
	if err == nil {
		err = e.usable(ctx)
	}
	if err != nil {
		return 0, err
	}
	index, err := e.apply([]Op{{Kind: OpCAS, Key: key, Value: value, Version: version}})
	if err != nil {
		return 0, fmt.Errorf("set %q: %w", key, err)
	}
	return index, nil
}

func (e *embeddedStore) Delete(ctx context.Context, key string, version uint64) error {
	err := checkKey(key)
	if err == nil {
		err = e.usable(ctx)
	}
	if err != nil {
		return err
	}
	if _, err := e.apply([]Op{{Kind: OpDelete, Key: key, Version: version}}); err != nil {
		return fmt.Errorf("delete %q: %w", key, err)
	}
	return nil
}

func (e *embeddedStore) Txn(ctx context.Context, ops []Op) error {
	err := checkOps(ops)
	if err == nil {
		err = e.usable(ctx)
	}
	if err != nil || len(ops) == 0 {
		return err
	}
	if _, err := e.apply(ops); err != nil {
		return fmt.Errorf("transaction of %d operations, first key %q: %w", len(ops), ops[0].Key, err)
	}
	return nil
}

// apply executes all of ops or none and returns the index of the change. The change is on
// disk when apply returns.
func (e *embeddedStore) apply(ops []Op) (uint64, error) {
	index, err := e.update(func(c *change) error {
		for _, op := range ops {
			if op.Session != "" && op.Kind == OpCAS && !e.lives(op.Session) {
				return fmt.Errorf("%w: the session has ended", ErrInvalid)
			}
			if err := c.do(op); err != nil {
				return err
			}
		}
		return nil
	})
	return index, fault(err)
}

// update commits the changes that do makes and announces them in the order of their
// indexes.
func (e *embeddedStore) update(do func(*change) error) (uint64, error) {
	e.writing.Lock()
	defer e.writing.Unlock()
	var c *change
	err := e.db.Update(func(tx *bbolt.Tx) error {
		c = newChange(tx)
		if err := do(c); err != nil {
			return err
		}
		return c.finish()
	})
	if err != nil {
		return 0, err
	}
	e.announce(c)
	return c.index, nil
}

// change is one transaction of the file.
type change struct {
	tx      *bbolt.Tx
	keys    *bbolt.Bucket
	index   uint64 // version of the keys that it writes
	written []string
	deleted []string
}

func newChange(tx *bbolt.Tx) *change {
	return &change{tx: tx, keys: tx.Bucket(bucketKeys), index: indexOf(tx) + 1}
}

func (c *change) do(op Op) error {
	if op.Kind == OpDeleteTree {
		return c.deleteTree(op.Key)
	}
	var found Entry
	if data := c.keys.Get([]byte(op.Key)); data != nil {
		var err error
		if found, err = decodeRecord([]byte(op.Key), data); err != nil {
			return err
		}
	}
	if found.Version != op.Version || op.Kind == OpDelete && op.Version == 0 {
		return fmt.Errorf("%w (key %q is at version %d, not %d)", ErrConflict, op.Key, found.Version, op.Version)
	}
	switch op.Kind {
	case OpCAS:
		if op.Session != "" && found.Session != "" && found.Session != op.Session {
			return fmt.Errorf("%w (key %q is held by another session)", ErrConflict, op.Key)
		}
		session := found.Session // a write without a session does not release the key
		if op.Session != "" {
			session = op.Session
		}
		return c.put(Entry{Key: op.Key, Value: op.Value, Session: session})
	case OpDelete:
		return c.delete(op.Key)
	}
	return nil
}

func (c *change) put(e Entry) error {
	e.Version = c.index
	c.written = append(c.written, e.Key)
	return c.keys.Put([]byte(e.Key), encodeRecord(e))
}

func (c *change) delete(key string) error {
	c.deleted = append(c.deleted, key)
	return c.keys.Delete([]byte(key))
}

// deleteTree collects the keys before it deletes them, because a cursor skips keys if its
// bucket changes.
func (c *change) deleteTree(prefix string) error {
	var keys []string
	err := each(c.tx, prefix, func(e Entry) error {
		keys = append(keys, e.Key)
		return nil
	})
	if err != nil {
		return err
	}
	for _, key := range keys {
		if err := c.delete(key); err != nil {
			return err
		}
	}
	return nil
}

// release frees the keys whose session has ended. As in Consul, this changes the key and
// gives it a new version.
func (c *change) release(ended func(session string) bool) error {
	var held []Entry
	err := each(c.tx, "", func(e Entry) error {
		if e.Session != "" && ended(e.Session) {
			held = append(held, e)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, e := range held {
		e.Session = ""
		if err := c.put(e); err != nil {
			return err
		}
	}
	return nil
}

// finish stores the index if anything changed.
func (c *change) finish() error {
	if len(c.written)+len(c.deleted) == 0 {
		c.index--
		return nil
	}
	return c.tx.Bucket(bucketMeta).Put(keyIndex, binary.BigEndian.AppendUint64(nil, c.index))
}
