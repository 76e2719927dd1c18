package state

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"
)

// A write whose response is lost may have been applied, may be applied later, or may
// never be applied. Each call therefore marks what it writes with a unique number in
// Consul's flags, and every attempt of the call uses the same mark. A key with the mark
// proves that the call was applied, even if another writer wrote the same value. The mark
// also makes every write a change and so assigns a new version; Consul ignores a write
// that equals the stored pair.

func (c *consulStore) CompareAndSet(ctx context.Context, key string, value []byte, version uint64) (uint64, error) {
	err := checkKey(key)
	if err == nil {
		err = checkValue(key, value)
	}
	if err != nil {
		return 0, err
	}
	ctx, done := c.begin(ctx)
	defer done()
	w := &write{store: c, ops: []Op{{Kind: OpCAS, Key: key, Value: value, Version: version}}}
	if opBody+len(key)+base64.StdEncoding.EncodedLen(len(value)) > maxTxnBody {
		w.large = true
	}
	if err := w.do(ctx); err != nil {
		return 0, fmt.Errorf("set %q: %w", key, err)
	}
	return w.versions[key], nil
}

func (c *consulStore) Delete(ctx context.Context, key string, version uint64) error {
	if err := checkKey(key); err != nil {
		return err
	}
	ctx, done := c.begin(ctx)
	defer done()
	w := &write{store: c, ops: []Op{{Kind: OpDelete, Key: key, Version: version}}}
	if err := w.do(ctx); err != nil {
		return fmt.Errorf("delete %q: %w", key, err)
	}
	return nil
}

func (c *consulStore) Txn(ctx context.Context, ops []Op) error {
	if err := checkOps(ops); err != nil {
		return err
	}
	if len(ops) == 0 {
		return nil
	}
	ctx, done := c.begin(ctx)
	defer done()
	w := &write{store: c, ops: ops}
	if err := w.do(ctx); err != nil {
		return fmt.Errorf("transaction of %d operations, first key %q: %w", len(ops), ops[0].Key, err)
	}
	return nil
}

// write is a call that changes keys, with all its attempts.
type write struct {
	store    *consulStore
	ops      []Op
	large    bool              // a single CAS whose value exceeds the size limit of a transaction
	mark     uint64            // unique to this call
	doubt    bool              // an attempt may have been applied
	versions map[string]uint64 // new versions of the keys, set when the write was applied
}

// errLockDelay is Consul's refusal to lock a key during the lock delay after its last
// holder ended.
var errLockDelay = errors.New("the key's last holder ended just now")

// do attempts the write until it is applied or refused. It never reports a conflict with
// its own write. If an attempt is in doubt, it does not attempt the write again before a
// lookup has shown that the attempt was not applied.
func (w *write) do(ctx context.Context) error {
	// 53 bits: a JSON decoder that knows only floats preserves them exactly.
	w.mark = rand.Uint64N(1<<53-1) + 1
	var pace pacer
	for {
		err := w.attempt(ctx, &pace)
		if err == nil {
			return nil
		}
		conflict := errors.Is(err, ErrConflict)
		if conflict && !w.doubt || errors.Is(err, ErrInvalid) {
			return err
		}
		f := failure{err: err, patience: lostPatience}
		switch {
		case errors.Is(err, errLockDelay):
			// The sessions of this package have a lock delay of 1 ms. A session of
			// another program may have a minute, so the key counts as held.
			f = failure{err: fmt.Errorf("%w: %w", ErrConflict, err), patience: refusedPatience}
		case !conflict:
			f = w.store.judge(ctx, err)
		}
		w.doubt = w.doubt || f.maybe
		if w.doubt {
			applied, err := w.lookUp(ctx, &pace, f)
			if applied || err != nil {
				return err
			}
			if conflict {
				return f.err
			}
		}
		if !pace.again(ctx, w.patience(f)) {
			return w.failed(ctx, f)
		}
	}
}

// patience returns a longer time if an attempt is in doubt, because then the result
// matters more.
func (w *write) patience(f failure) time.Duration {
	if w.doubt && f.patience > 0 {
		return lostPatience
	}
	return f.patience
}

func (w *write) failed(ctx context.Context, f failure) error {
	if ctx.Err() != nil {
		return w.store.ended(ctx, w.doubt)
	}
	return f.err
}

// attempt sends the write once.
func (w *write) attempt(ctx context.Context, pace *pacer) error {
	if w.large {
		return w.attemptLarge(ctx, pace)
	}
	var ops api.TxnOps
	for _, op := range w.ops {
		for _, verb := range w.verbs(op) {
			ops = append(ops, &api.TxnOp{KV: verb})
		}
	}
	var (
		ok    bool
		reply *api.TxnResponse
	)
	err := w.store.attempt(ctx, pace, func(ctx context.Context) (err error) {
		ok, reply, _, err = w.store.client.Txn().Txn(ops, (&api.QueryOptions{}).WithContext(ctx))
		return err
	})
	if err != nil {
		return err
	}
	if !ok {
		return w.refusal(reply.Errors)
	}
	w.versions = make(map[string]uint64, len(reply.Results))
	for _, result := range reply.Results {
		if result.KV != nil {
			w.versions[result.KV.Key] = result.KV.ModifyIndex
		}
	}
	return nil
}

// verbs returns the Consul operations for op. Consul's delete-cas succeeds for an absent
// key, and its lock compares no version, so a check precedes both.
func (w *write) verbs(op Op) []*api.KVTxnOp {
	check := &api.KVTxnOp{Verb: api.KVCheckIndex, Key: op.Key, Index: op.Version}
	if op.Version == 0 && op.Kind != OpDelete {
		check = &api.KVTxnOp{Verb: api.KVCheckNotExists, Key: op.Key}
	}
	switch {
	case op.Kind == OpCAS && op.Session != "":
		return []*api.KVTxnOp{check, {Verb: api.KVLock, Key: op.Key, Value: op.Value, Flags: w.mark, Session: op.Session}}
	case op.Kind == OpCAS:
		return []*api.KVTxnOp{{Verb: api.KVCAS, Key: op.Key, Value: op.Value, Flags: w.mark, Index: op.Version}}
	case op.Kind == OpDelete:
		return []*api.KVTxnOp{check, {Verb: api.KVDeleteCAS, Key: op.Key, Index: op.Version}}
	case op.Kind == OpDeleteTree:
		return []*api.KVTxnOp{{Verb: api.KVDeleteTree, Key: op.Key}}
	default:
		return []*api.KVTxnOp{check}
	}
}

// refusal classifies the reasons for which Consul rolled back a transaction. Consul
// reports them only as text. An unknown reason is not a conflict, because a caller would
// retry a conflict forever.
func (w *write) refusal(reasons api.TxnErrors) error {
	if len(reasons) == 0 {
		return fmt.Errorf("%w: rolled back without a reason", ErrInvalid)
	}
	what := reasons[0].What
	has := func(parts ...string) bool {
		for _, part := range parts {
			if strings.Contains(what, part) {
				return true
			}
		}
		return false
	}
	switch {
	case has("ermission denied", "ACL not found"):
		return fmt.Errorf("%w: consul at %s: permission denied: check the token (%s)", ErrInvalid, w.store.address, what)
	case has("invalid session"):
		return fmt.Errorf("%w: the session has ended", ErrInvalid)
	case has("due to lock delay"):
		return errLockDelay
	case has("index is stale", "failed index check", "failed to check index", "exists", "lock is already held"):
		return fmt.Errorf("%w (%s)", ErrConflict, what)
	default:
		return fmt.Errorf("%w: %s", ErrInvalid, what)
	}
}

// attemptLarge writes a value that exceeds the size limit of a transaction with a plain
// CAS. The response contains no version, so attemptLarge reads it afterwards.
func (w *write) attemptLarge(ctx context.Context, pace *pacer) error {
	op := w.ops[0]
	var set bool
	err := w.store.attempt(ctx, pace, func(ctx context.Context) (err error) {
		pair := &api.KVPair{Key: op.Key, Value: op.Value, Flags: w.mark, ModifyIndex: op.Version}
		set, _, err = w.store.client.KV().CAS(pair, (&api.WriteOptions{}).WithContext(ctx))
		return err
	})
	if err != nil {
		return err
	}
	if !set {
		return fmt.Errorf("%w (compared with version %d)", ErrConflict, op.Version)
	}
	w.doubt = true // the write is in doubt until its version is known
	var (
		pair *api.KVPair
		meta *api.QueryMeta
	)
	err = w.store.read(ctx, func(ctx context.Context) (err error) {
		pair, meta, err = w.store.client.KV().Get(op.Key, consistent().WithContext(ctx))
		return err
	})
	if err != nil {
		return &brokenError{sent: true, err: err}
	}
	// If another writer has changed or deleted the key since, the version of this write
	// is lower than the current index. Any such number works as the version: the key
	// never has it again, so a comparison with it fails, as it must.
	version := meta.LastIndex - 1
	if pair != nil && pair.Flags == w.mark {
		version = pair.ModifyIndex
	}
	w.versions = map[string]uint64{op.Key: version}
	return nil
}
