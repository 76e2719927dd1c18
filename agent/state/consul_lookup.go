package state

import (
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/consul/api"
)

// errUndecided reports that another writer has written the keys of a lost write since, so
// its result stays unknown.
var errUndecided = errors.New("the answer was lost, and the keys have been written by another since: it is not known whether this write was applied")

// verdict is what the current keys show about a write.
type verdict int

const (
	undecided verdict = iota
	applied
	notApplied
)

// lookUp reads the keys of a write that is in doubt and reports whether it was applied.
// It retries failed reads within lostPatience. It fails if it cannot tell.
func (w *write) lookUp(ctx context.Context, pace *pacer, f failure) (bool, error) {
	keys := w.evidence()
	if len(keys) == 0 {
		// A check changes nothing, and OpDeleteTree may safely run twice.
		return false, nil
	}
	for {
		found, err := w.fetch(ctx, pace, keys)
		if err == nil {
			switch w.decide(found) {
			case applied:
				w.versions = make(map[string]uint64, len(found))
				for key, pair := range found {
					w.versions[key] = pair.ModifyIndex
				}
				return true, nil
			case notApplied:
				return false, nil
			default:
				return false, w.store.unavailable(errUndecided)
			}
		}
		if ctx.Err() != nil {
			return false, w.store.ended(ctx, true)
		}
		if !pace.again(ctx, lostPatience) {
			if ctx.Err() != nil {
				return false, w.store.ended(ctx, true)
			}
			return false, fmt.Errorf("it is not known whether the write was applied: %w", f.err)
		}
	}
}

// evidence returns the operations whose keys show whether the write was applied.
func (w *write) evidence() []Op {
	var keys []Op
	for _, op := range w.ops {
		if op.Kind == OpCAS || op.Kind == OpDelete {
			keys = append(keys, op)
		}
	}
	return keys
}

// fetch reads all keys in one transaction. An absent key has ModifyIndex 0.
func (w *write) fetch(ctx context.Context, pace *pacer, ops []Op) (map[string]*api.KVPair, error) {
	if w.large {
		return w.fetchLarge(ctx, pace, ops[0].Key)
	}
	var gets api.TxnOps
	for _, op := range ops {
		gets = append(gets, &api.TxnOp{KV: &api.KVTxnOp{Verb: api.KVGetOrEmpty, Key: op.Key}})
	}
	found := make(map[string]*api.KVPair, len(ops))
	err := w.store.attempt(ctx, pace, func(ctx context.Context) error {
		_, reply, _, err := w.store.client.Txn().Txn(gets, consistent().WithContext(ctx))
		if err != nil {
			return err
		}
		for _, result := range reply.Results {
			if result.KV != nil {
				found[result.KV.Key] = result.KV
			}
		}
		if len(found) != len(ops) {
			return errors.New("not all keys may be read")
		}
		return nil
	})
	return found, err
}

func (w *write) fetchLarge(ctx context.Context, pace *pacer, key string) (map[string]*api.KVPair, error) {
	pair := &api.KVPair{Key: key}
	err := w.store.attempt(ctx, pace, func(ctx context.Context) error {
		found, _, err := w.store.client.KV().Get(key, consistent().WithContext(ctx))
		if found != nil {
			pair = found
		}
		return err
	})
	return map[string]*api.KVPair{key: pair}, err
}

// decide determines from the keys whether the write was applied. A write is atomic, so
// one conclusive key suffices.
func (w *write) decide(found map[string]*api.KVPair) verdict {
	result := undecided
	gone := true // the write only deletes, and every key that it deletes is absent
	for _, op := range w.ops {
		pair := found[op.Key]
		switch op.Kind {
		case OpCAS:
			gone = false
			if pair.Flags == w.mark && pair.ModifyIndex != 0 {
				return applied
			}
			if pair.ModifyIndex == op.Version {
				result = notApplied
			}
		case OpDelete:
			if pair.ModifyIndex != 0 {
				gone = false
			}
			// The key was created no later than the version to delete, so it has not
			// been deleted since.
			if pair.ModifyIndex != 0 && pair.CreateIndex <= op.Version {
				result = notApplied
			}
		}
	}
	if result == undecided && gone {
		return applied
	}
	return result
}
