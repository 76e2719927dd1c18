package ipam

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/socketplane/socketplane/agent/state"
)

// Store is what an Allocator needs of the key-value state; state.Store is one.
type Store interface {
	Get(ctx context.Context, key string) (state.Entry, error)
	List(ctx context.Context, prefix string) ([]state.Entry, error)
	CompareAndSet(ctx context.Context, key string, value []byte, version uint64) (uint64, error)
	Delete(ctx context.Context, key string, version uint64) error
}

// Allocator hands out addresses on behalf of one host. Several goroutines may
// use it. Those that want something of the same subnet at the same moment share
// their writes, different subnets do not wait for each other.
//
// An owner is a name that only this host uses, such as an endpoint's id with the
// host's. The owners of a subnet are read once, when it is first used, and then
// followed through the allocator's own writes and re-reads.
type Allocator struct {
	store Store
	host  string

	mu    sync.Mutex
	views map[netip.Prefix]*view
}

// Allocation is an address with the owner that has it.
type Allocation struct {
	Addr  netip.Addr
	Owner string
}

// New makes an Allocator. host is this host's UUID; it is written into the
// blocks that it claims, and found again there after a restart.
func New(store Store, host string) *Allocator {
	return &Allocator{store: store, host: host, views: map[netip.Prefix]*view{}}
}

// Allocate gives owner the next free address, or the one it has already. Usually
// that is one write, or a share of one. An address just released is not the next
// one given. Errors: ErrExhausted, and those of the store; when the store could
// not be reached, asking again with the same owner finds what was written.
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
		if !ok && !o.fresh { // full as far as we know: somebody may have released
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

// AllocateAddr gives owner this address, wherever its block lies. It is done
// already when owner has it. Errors: ErrOutside; ErrReserved for the network,
// broadcast and gateway addresses; ErrTaken (a TakenError); ErrOwnerHas (an
// OwnerHasError) when owner has another address of the pool; ErrBadBlock.
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
		if _, taken := b.owners[addr]; (taken || b.err != nil) && !o.fresh { // be sure before saying so
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

// Transfer makes an address that from has to's, in one write. It is done already
// when to has it. Errors: ErrTaken (a TakenError, of an empty owner when nobody
// has it); ErrBadBlock; those of the store.
func (a *Allocator) Transfer(ctx context.Context, pool Pool, addr netip.Addr, from, to string) error {
	return a.do(ctx, pool, to, fmt.Sprintf("transfer %s", addr), func(ctx context.Context, _ *op, v *view) (*block, error) {
		if !pool.Subnet.Contains(addr) {
			return nil, fmt.Errorf("%w: %s is not in %s", ErrOutside, addr, pool.Subnet)
		}
		index := v.indexOf(addr)
		b := v.at(index, a.host)
		if b.err == nil && b.owners[addr] != from { // as far as we know: be sure before saying so
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

// Release takes back what owner has of the pool; nothing is fine too. A block
// that becomes empty goes, so that nothing is left behind.
func (a *Allocator) Release(ctx context.Context, pool Pool, owner string) error {
	what := fmt.Sprintf("release the address of %q", owner)
	return a.do(ctx, pool, owner, what, func(ctx context.Context, o *op, v *view) (*block, error) {
		if len(v.owners[owner]) == 0 && !o.fresh && (!o.more || len(v.drafts) > 0) { // unknown here: be sure before saying so
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

// Forget drops what is remembered of a subnet whose network is gone. It changes
// nothing in the store.
func (a *Allocator) Forget(subnet netip.Prefix) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.views, subnet)
}

// view gives what is known of a subnet.
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
