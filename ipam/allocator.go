package ipam

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/socketplane/socketplane/agent/state"
)

// Store is the part of the key-value state that an Allocator uses; state.Store implements
// it.
type Store interface {
	Get(ctx context.Context, key string) (state.Entry, error)
	List(ctx context.Context, prefix string) ([]state.Entry, error)
	CompareAndSet(ctx context.Context, key string, value []byte, version uint64) (uint64, error)
	Delete(ctx context.Context, key string, version uint64) error
}

// Allocator allocates addresses for one host. Several goroutines may use it. Concurrent
// requests for the same subnet share their writes; requests for different subnets do not
// wait for each other.
//
// An owner is a name that only this host uses, such as an endpoint ID together with the
// host ID. The Allocator reads the owners of a subnet at its first use, and then updates
// them from its own writes and repeated reads.
type Allocator struct {
	store Store
	host  string

	mu    sync.Mutex
	views map[netip.Prefix]*view
}

// Allocation is an address with its owner.
type Allocation struct {
	Addr  netip.Addr
	Owner string
}

// New returns an Allocator. host is this host's UUID. The Allocator writes it to the
// blocks that it claims, and recognizes them by it after a restart.
func New(store Store, host string) *Allocator {
	return &Allocator{store: store, host: host, views: map[netip.Prefix]*view{}}
}

// Allocate returns the address that owner already has, or allocates the next free one.
// That usually costs one write or a share of one. Allocate does not immediately reuse a
// released address. Errors: ErrExhausted, and those of the store. After a failure to
// reach the store, a repeated call with the same owner finds what was written.
func (a *Allocator) Allocate(ctx context.Context, pool Pool, owner string) (netip.Addr, error) {
	var given netip.Addr
	what := fmt.Sprintf("allocate an address of %s", pool.Subnet)
	err := a.do(ctx, pool, owner, what, func(ctx context.Context, o *op, v *view) (*block, error) {
		held, err := v.held(ctx, a.store, owner)
		if err != nil {
			return nil, err
		}
		if len(held) > 0 {
			given = held[0]
			return nil, nil
		}
		addr, ok := v.pick(pool, a.host, o.lost)
		if !ok && !o.fresh { // the known blocks are full, but another host may have released an address
			if err := v.reload(ctx, a.store); err != nil {
				return nil, err
			}
			addr, ok = v.pick(pool, a.host, o.lost)
		}
		if !ok && pool.Range.IsValid() {
			return nil, fmt.Errorf("range %s of subnet %s: %w", pool.Range, pool.Subnet, ErrExhausted)
		}
		if !ok {
			return nil, fmt.Errorf("subnet %s: %w", pool.Subnet, ErrExhausted)
		}
		given = addr
		index := v.indexOf(addr)
		v.current = index
		v.last[index] = offset(v.subnet, addr) % BlockSize
		return v.at(index, a.host).with(addr, owner), nil
	})
	if err != nil {
		return netip.Addr{}, err
	}
	return given, nil
}

// AllocateAddr allocates addr to owner, whichever block it is in. It succeeds if owner
// already has addr. Errors: ErrOutside; ErrReserved for the network, broadcast and
// gateway addresses; ErrTaken (a TakenError); ErrOwnerHas (an OwnerHasError) if owner has
// another address of the pool; ErrBadBlock; those of the store.
func (a *Allocator) AllocateAddr(ctx context.Context, pool Pool, addr netip.Addr, owner string) error {
	return a.do(ctx, pool, owner, fmt.Sprintf("allocate %s", addr), func(ctx context.Context, o *op, v *view) (*block, error) {
		if !pool.Subnet.Contains(addr) {
			return nil, fmt.Errorf("%w: %s is not in %s", ErrOutside, addr, pool.Subnet)
		}
		if what := pool.reserved(addr); what != "" {
			return nil, fmt.Errorf("%w: %s is the %s of %s", ErrReserved, addr, what, pool.Subnet)
		}
		held, err := v.held(ctx, a.store, owner)
		switch {
		case err != nil:
			return nil, err
		case slices.Contains(held, addr):
			return nil, nil
		case len(held) > 0:
			return nil, &OwnerHasError{Owner: owner, Addr: held[0]}
		}
		index := v.indexOf(addr)
		b := v.at(index, a.host)
		if _, taken := b.owners[addr]; (taken || b.err != nil) && !o.fresh { // read the block again before refusing
			if err := v.refresh(ctx, a.store, index); err != nil {
				return nil, err
			}
			b = v.at(index, a.host)
		}
		if b.err != nil {
			return nil, b.err
		}
		if who, taken := b.owners[addr]; taken {
			return nil, &TakenError{Addr: addr, Owner: who}
		}
		return b.with(addr, owner), nil
	})
}

// Transfer moves addr from owner from to owner to in one write. It succeeds if to already
// has addr. Errors: ErrOutside; ErrTaken (a TakenError, whose Owner is empty if the
// address is free); ErrBadBlock; those of the store.
func (a *Allocator) Transfer(ctx context.Context, pool Pool, addr netip.Addr, from, to string) error {
	return a.do(ctx, pool, to, fmt.Sprintf("transfer %s", addr), func(ctx context.Context, _ *op, v *view) (*block, error) {
		if !pool.Subnet.Contains(addr) {
			return nil, fmt.Errorf("%w: %s is not in %s", ErrOutside, addr, pool.Subnet)
		}
		index := v.indexOf(addr)
		b := v.at(index, a.host)
		if b.err == nil && b.owners[addr] != from { // read the block again before refusing
			if err := v.refresh(ctx, a.store, index); err != nil {
				return nil, err
			}
			b = v.at(index, a.host)
		}
		switch {
		case b.err != nil:
			return nil, b.err
		case b.owners[addr] == to:
			return nil, nil
		case b.owners[addr] != from:
			return nil, &TakenError{Addr: addr, Owner: b.owners[addr]}
		}
		return b.with(addr, to), nil
	})
}

// Release releases all addresses of owner in the pool. It succeeds if there are none. It
// deletes a block that becomes empty.
func (a *Allocator) Release(ctx context.Context, pool Pool, owner string) error {
	what := fmt.Sprintf("release the address of %q", owner)
	return a.do(ctx, pool, owner, what, func(ctx context.Context, o *op, v *view) (*block, error) {
		if len(v.owners[owner]) == 0 && !o.fresh && (!o.more || len(v.drafts) > 0) { // the owner is unknown here: read the subnet again
			if err := v.reload(ctx, a.store); err != nil {
				return nil, err
			}
		}
		held := v.owners[owner]
		if len(held) == 0 {
			return nil, nil
		}
		index := v.indexOf(held[0])
		o.more = slices.ContainsFunc(held, func(addr netip.Addr) bool { return v.indexOf(addr) != index })
		return v.blocks[index].without(owner), nil
	})
}

// Forget drops the cached state of a subnet whose network is deleted. It does not change
// the store.
func (a *Allocator) Forget(subnet netip.Prefix) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.views, subnet)
}

// view returns the cached state of a subnet.
func (a *Allocator) view(subnet netip.Prefix) *view {
	a.mu.Lock()
	defer a.mu.Unlock()
	v := a.views[subnet]
	if v == nil {
		v = newView(subnet)
		a.views[subnet] = v
	}
	return v
}
