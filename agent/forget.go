package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/socketplane/socketplane/agent/cluster"
	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/ipam"
)

// errFenced means that a value checked by the fence has changed.
var errFenced = errors.New("it is not ours to do any more")

// forgetTries bounds the attempts on one key when others keep changing it.
const forgetTries = 16

// ForgetStore is the part of the key-value store that Forget uses.
type ForgetStore interface {
	Get(ctx context.Context, key string) (state.Entry, error)
	List(ctx context.Context, prefix string) ([]state.Entry, error)
	Txn(ctx context.Context, ops []state.Op) error
}

// Forget removes everything of a host from the store. It removes the lists of endpoints
// first, so that nobody gets an address that others still believe to be the host's. Then
// it removes the host's addresses and its claims to blocks of them, and last its record,
// because the record shows that there is something to remove. Every transaction checks
// the fence, whose operations are of kind OpCheck.
//
// The host must be dead, or it must be this host and have stopped publishing and
// registering itself. Otherwise it writes everything again. After a failure, another call
// completes the work. Forget skips values that cannot be decoded, and returns their
// errors after everything else is done.
func Forget(ctx context.Context, store ForgetStore, host string, fence ...state.Op) error {
	f := &forgetting{store: store, host: host, fence: fence}
	left := map[string]error{}
	for _, step := range []func(context.Context, map[string]error) error{f.lists, f.addresses, f.record} {
		if err := step(ctx, left); err != nil {
			return fmt.Errorf("take host %s out of the store: %w", host, err)
		}
	}
	errs := make([]error, 0, len(left))
	for _, err := range left {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

type forgetting struct {
	store ForgetStore
	host  string
	fence []state.Op
}

// change writes what plan makes of a key's value. If another writer was faster, it starts
// over with the new value. plan returns some == false if there is nothing to write. Each
// key has its own transaction, so a block that others allocate from does not delay the
// other keys.
func (f *forgetting) change(ctx context.Context, e state.Entry, plan func(state.Entry) (op state.Op, some bool, err error)) error {
	var err error
	for range forgetTries {
		op, some, planErr := plan(e)
		if planErr != nil || !some {
			return planErr
		}
		if err = f.store.Txn(ctx, append(append([]state.Op{}, f.fence...), op)); !errors.Is(err, state.ErrConflict) {
			return err
		}
		if len(f.fence) > 0 {
			if held := f.store.Txn(ctx, f.fence); errors.Is(held, state.ErrConflict) {
				return fmt.Errorf("%w: %w", errFenced, held)
			} else if held != nil {
				return held
			}
		}
		now, getErr := f.store.Get(ctx, e.Key)
		if errors.Is(getErr, state.ErrNotFound) {
			return nil
		}
		if getErr != nil {
			return getErr
		}
		e = now
	}
	return err
}

func (f *forgetting) lists(ctx context.Context, left map[string]error) error {
	entries, err := f.store.List(ctx, network.EndpointsPrefix)
	if err != nil {
		return err
	}
	for _, e := range entries {
		err := f.change(ctx, e, func(e state.Entry) (op state.Op, some bool, err error) {
			_, host, _, err := decodeEndpoints(e)
			if host != f.host {
				return op, false, nil
			}
			if err != nil {
				left[e.Key] = err
				return op, false, nil
			}
			return state.Op{Kind: state.OpDelete, Key: e.Key, Version: e.Version}, true, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (f *forgetting) addresses(ctx context.Context, left map[string]error) error {
	entries, err := f.store.List(ctx, ipam.BlocksPrefix)
	if err != nil {
		return err
	}
	for _, e := range entries {
		err := f.change(ctx, e, func(e state.Entry) (op state.Op, some bool, err error) {
			if op, some, err = ipam.Evict(e, f.host, ownerHost); err != nil {
				left[e.Key] = err
				return op, false, nil
			}
			return op, some, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// ownerHost returns the host part of an owner; see Agent.owner.
func ownerHost(owner string) string {
	host, _, _ := strings.Cut(owner, "/")
	return host
}

func (f *forgetting) record(ctx context.Context, _ map[string]error) error {
	e, err := f.store.Get(ctx, cluster.HostsPrefix+f.host)
	if errors.Is(err, state.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return f.change(ctx, e, func(e state.Entry) (state.Op, bool, error) {
		return state.Op{Kind: state.OpDelete, Key: e.Key, Version: e.Version}, true, nil
	})
}

// listedOnce is a store that reads each list once, to work on several hosts. A later
// change makes the write fail, so a stale list does no harm.
type listedOnce struct {
	ForgetStore

	mu    sync.Mutex
	lists map[string][]state.Entry
}

// List returns the result of the first successful read.
func (s *listedOnce) List(ctx context.Context, prefix string) ([]state.Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if list, ok := s.lists[prefix]; ok {
		return list, nil
	}
	list, err := s.ForgetStore.List(ctx, prefix)
	if err == nil {
		s.lists[prefix] = list
	}
	return list, err
}
