package ipam

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

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
// use it. Work on one subnet is done one at a time, different subnets do not
// wait for each other.
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
// that is one write. An address just released is not the next one given.
// Errors: ErrExhausted, and those of the store; when the store could not be
// reached, asking again with the same owner finds what was written.
func (a *Allocator) Allocate(ctx context.Context, pool Pool, owner string) (netip.Addr, error) {
	v, err := a.open(ctx, pool, owner)
	if err != nil {
		return netip.Addr{}, err
	}
	defer v.unlock()
	for lost, reread := 0, false; ; {
		reread = reread || !v.loaded
		if err := v.load(ctx, a.store); err != nil {
			return netip.Addr{}, err
		}
		held, err := a.held(ctx, v, owner)
		if err != nil {
			return netip.Addr{}, err
		}
		if len(held) > 0 {
			return held[0], nil
		}
		addr, ok := v.pick(pool, a.host, lost)
		if !ok {
			if reread {
				return netip.Addr{}, fmt.Errorf("subnet %s: %w", pool.Subnet, ErrExhausted)
			}
			v.loaded = false // full as far as we know: somebody may have released
			continue
		}
		index := v.indexOf(addr)
		written, err := a.write(ctx, v, v.at(index, a.host).with(addr, owner))
		if err != nil {
			return netip.Addr{}, fmt.Errorf("allocate an address of %s: %w", pool.Subnet, err)
		}
		if written {
			v.current = index
			v.last[index] = offset(v.subnet, addr) % BlockSize
			return addr, nil
		}
		reread = false
		lost++
		if err := pause(ctx, lost); err != nil {
			return netip.Addr{}, fmt.Errorf("allocate an address of %s: %w", pool.Subnet, err)
		}
	}
}

// AllocateAddr gives owner this address, wherever its block lies. It is done
// already when owner has it. Errors: ErrOutside; ErrReserved for the network,
// broadcast and gateway addresses; ErrTaken (a TakenError); ErrOwnerHas (an
// OwnerHasError) when owner has another address of the pool; ErrBadBlock.
func (a *Allocator) AllocateAddr(ctx context.Context, pool Pool, addr netip.Addr, owner string) error {
	v, err := a.open(ctx, pool, owner)
	if err != nil {
		return err
	}
	defer v.unlock()
	if !pool.Subnet.Contains(addr) {
		return fmt.Errorf("%w: %s is not in %s", ErrOutside, addr, pool.Subnet)
	}
	if what := pool.reserved(addr); what != "" {
		return fmt.Errorf("%w: %s is the %s of %s", ErrReserved, addr, what, pool.Subnet)
	}
	index := v.indexOf(addr)
	for lost, reread := 0, false; ; {
		reread = reread || !v.loaded
		if err := v.load(ctx, a.store); err != nil {
			return err
		}
		held, err := a.held(ctx, v, owner)
		if err != nil {
			return err
		}
		if slices.Contains(held, addr) {
			return nil
		}
		if len(held) > 0 {
			return &OwnerHasError{Owner: owner, Addr: held[0]}
		}
		b := v.at(index, a.host)
		if who, taken := b.owners[addr]; taken || b.err != nil {
			if !reread {
				if err := v.refresh(ctx, a.store, index); err != nil {
					return err
				}
				reread = true
				continue
			}
			if b.err != nil {
				return b.err
			}
			return &TakenError{Addr: addr, Owner: who}
		}
		written, err := a.write(ctx, v, b.with(addr, owner))
		if err != nil {
			return fmt.Errorf("allocate %s: %w", addr, err)
		}
		if written {
			return nil
		}
		reread = true // a lost write has just read the block again
		lost++
		if err := pause(ctx, lost); err != nil {
			return fmt.Errorf("allocate %s: %w", addr, err)
		}
	}
}

// Transfer makes an address that from has to's, in one write. It is done already
// when to has it. Errors: ErrTaken (a TakenError, of an empty owner when nobody
// has it); ErrBadBlock; those of the store.
func (a *Allocator) Transfer(ctx context.Context, pool Pool, addr netip.Addr, from, to string) error {
	v, err := a.open(ctx, pool, to)
	if err != nil {
		return err
	}
	defer v.unlock()
	if !pool.Subnet.Contains(addr) {
		return fmt.Errorf("%w: %s is not in %s", ErrOutside, addr, pool.Subnet)
	}
	index := v.indexOf(addr)
	for lost := 0; ; lost++ {
		if err := v.load(ctx, a.store); err != nil {
			return err
		}
		b := v.at(index, a.host)
		if b.err == nil && b.owners[addr] != from { // as far as we know: be sure before saying so
			if err := v.refresh(ctx, a.store, index); err != nil {
				return err
			}
			b = v.at(index, a.host)
		}
		switch {
		case b.err != nil:
			return b.err
		case b.owners[addr] == to:
			return nil
		case b.owners[addr] != from:
			return &TakenError{Addr: addr, Owner: b.owners[addr]}
		}
		written, err := a.write(ctx, v, b.with(addr, to))
		if err != nil {
			return fmt.Errorf("transfer %s: %w", addr, err)
		}
		if written {
			return nil
		}
		if err := pause(ctx, lost); err != nil {
			return fmt.Errorf("transfer %s: %w", addr, err)
		}
	}
}

// Release takes back what owner has of the pool; nothing is fine too. A block
// that becomes empty goes, so that nothing is left behind.
func (a *Allocator) Release(ctx context.Context, pool Pool, owner string) error {
	v, err := a.open(ctx, pool, owner)
	if err != nil {
		return err
	}
	defer v.unlock()
	for lost, reread := 0, false; ; {
		reread = reread || !v.loaded
		if err := v.load(ctx, a.store); err != nil {
			return err
		}
		held := v.owners[owner]
		if len(held) == 0 {
			if reread {
				return nil
			}
			v.loaded = false // unknown here: be sure before saying so
			continue
		}
		written, err := a.write(ctx, v, v.blocks[v.indexOf(held[0])].without(owner))
		if err != nil {
			return fmt.Errorf("release %s of %q: %w", held[0], owner, err)
		}
		if written {
			reread = true
			continue
		}
		lost++
		if err := pause(ctx, lost); err != nil {
			return fmt.Errorf("release address of %q: %w", owner, err)
		}
	}
}

// List reads every allocation of a subnet, sorted by address. Blocks that cannot
// be decoded make an error that joins a BadBlockError for each; the allocations
// of the others come with it.
func (a *Allocator) List(ctx context.Context, subnet netip.Prefix) ([]Allocation, error) {
	if err := checkSubnet(subnet); err != nil {
		return nil, err
	}
	entries, err := a.store.List(ctx, Prefix(subnet))
	if err != nil {
		return nil, fmt.Errorf("list addresses of %s: %w", subnet, err)
	}
	var (
		all []Allocation
		bad []error
	)
	for _, e := range entries {
		index, err := blockIndex(subnet, e.Key)
		if err != nil {
			bad = append(bad, &BadBlockError{Key: e.Key, Cause: err})
			continue
		}
		b := decodeBlock(subnet, index, e.Value, e.Version)
		if b.err != nil {
			bad = append(bad, b.err)
		}
		for addr, owner := range b.owners {
			all = append(all, Allocation{Addr: addr, Owner: owner})
		}
	}
	slices.SortFunc(all, func(x, y Allocation) int { return x.Addr.Compare(y.Addr) })
	return all, errors.Join(bad...)
}

// Forget drops what is remembered of a subnet whose network is gone. It changes
// nothing in the store.
func (a *Allocator) Forget(subnet netip.Prefix) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.views, subnet)
}

// open checks the arguments and gives the locked view of the pool's subnet.
func (a *Allocator) open(ctx context.Context, pool Pool, owner string) (*view, error) {
	if err := pool.check(); err != nil {
		return nil, err
	}
	if err := checkOwner(owner); err != nil {
		return nil, err
	}
	a.mu.Lock()
	v := a.views[pool.Subnet]
	if v == nil {
		v = newView(pool.Subnet)
		a.views[pool.Subnet] = v
	}
	a.mu.Unlock()
	select {
	case v.lock <- struct{}{}:
		return v, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for addresses of %s: %w", pool.Subnet, ctx.Err())
	}
}

func (v *view) unlock() { <-v.lock }

// held is what the store says owner has, of what the view believes: a view may
// outlive its network, and then no write would tell.
func (a *Allocator) held(ctx context.Context, v *view, owner string) ([]netip.Addr, error) {
	for _, addr := range slices.Clone(v.owners[owner]) {
		if err := v.refresh(ctx, a.store, v.indexOf(addr)); err != nil {
			return nil, err
		}
	}
	return v.owners[owner], nil
}

// write puts a block into the store, or takes it out when nobody is left in it.
// false: another was faster; the view has then been brought up to date.
func (a *Allocator) write(ctx context.Context, v *view, b *block) (bool, error) {
	var err error
	key := blockKey(v.subnet, b.index)
	if len(b.owners) == 0 {
		if err = a.store.Delete(ctx, key, b.version); err == nil {
			v.put(b.index, nil)
		}
	} else {
		var value []byte
		if value, err = b.encode(); err != nil {
			return false, fmt.Errorf("encode block %q: %w", key, err)
		}
		if b.version, err = a.store.CompareAndSet(ctx, key, value, b.version); err == nil {
			v.put(b.index, b)
		}
	}
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, state.ErrConflict):
		return false, v.refresh(ctx, a.store, b.index)
	default:
		v.loaded = false // it may have been applied all the same
		return false, err
	}
}

// pause waits after a lost race, a random time that grows with the races lost:
// 2 ms at most after the first, 128 ms at most in the end.
func pause(ctx context.Context, lost int) error {
	timer := time.NewTimer(rand.N(time.Millisecond << min(lost, 7)))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
