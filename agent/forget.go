package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/socketplane/socketplane/agent/cluster"
	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/ipam"
)

// errFenced means that something which must not change meanwhile has changed.
var errFenced = errors.New("it is not ours to do any more")

// forgetTries bounds how often a step begins anew after others have changed what
// it works on.
const forgetTries = 16

// ForgetStore is what Forget needs of the key-value state.
type ForgetStore interface {
	Get(ctx context.Context, key string) (state.Entry, error)
	List(ctx context.Context, prefix string) ([]state.Entry, error)
	Txn(ctx context.Context, ops []state.Op) error
}

// Forget takes everything of a host out of the store: its lists of endpoints
// first, so that nobody is given an address that others still believe to be
// the host's; then its addresses and its claims to blocks of them; last its
// record, which is what tells that there is something to take. The fence, of
// kind OpCheck, is checked in every transaction.
//
// The host must be dead, or be this one and have stopped publishing and
// registering itself: else it writes everything anew. What fails half way is
// finished by calling it again. A value that cannot be decoded is left alone,
// and in the error once all else is done.
func Forget(ctx context.Context, store ForgetStore, host string, fence ...state.Op) error {
	f := &forgetting{store: store, host: host, fence: fence}
	left := map[string]error{}
	for _, step := range []func(context.Context, map[string]error) error{f.lists, f.addresses, f.record} {
		if err := f.repeat(ctx, func() error { return step(ctx, left) }); err != nil {
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

// repeat does a step until nobody was in between.
func (f *forgetting) repeat(ctx context.Context, step func() error) (err error) {
	for range forgetTries {
		if err = step(); !errors.Is(err, state.ErrConflict) {
			return err
		}
		if len(f.fence) == 0 {
			continue
		}
		if held := f.store.Txn(ctx, f.fence); errors.Is(held, state.ErrConflict) {
			return fmt.Errorf("%w: %w", errFenced, held)
		} else if held != nil {
			return held
		}
	}
	return err
}

// do writes one operation behind the fence. Each has a transaction of its own:
// a block that others allocate from then holds up nothing else.
func (f *forgetting) do(ctx context.Context, op state.Op) error {
	return f.store.Txn(ctx, append(append([]state.Op{}, f.fence...), op))
}

func (f *forgetting) lists(ctx context.Context, left map[string]error) error {
	entries, err := f.store.List(ctx, network.EndpointsPrefix)
	if err != nil {
		return err
	}
	for _, e := range entries {
		_, host, _, err := decodeEndpoints(e)
		if host != f.host {
			continue
		}
		if err != nil {
			left[e.Key] = err
			continue
		}
		if err := f.do(ctx, state.Op{Kind: state.OpDelete, Key: e.Key, Version: e.Version}); err != nil {
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
		op, some, err := ipam.Evict(e, f.host, ownerHost)
		if err != nil {
			left[e.Key] = err
			continue
		}
		if !some {
			continue
		}
		if err := f.do(ctx, op); err != nil {
			return err
		}
	}
	return nil
}

// ownerHost is the host that an owner of an address is on, see Agent.owner.
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
	return f.do(ctx, state.Op{Kind: state.OpDelete, Key: e.Key, Version: e.Version})
}
