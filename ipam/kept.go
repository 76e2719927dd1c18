package ipam

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/socketplane/socketplane/agent/state"
)

// Keep returns the operations that allocate addresses of a pool to their owners, for a
// transaction of the caller. entries are the pool's blocks as the caller read them (see
// Prefix); the transaction conflicts if one of them has changed since. host gets the
// claim to a block that does not exist yet. Errors: ErrOutside; ErrReserved; ErrTaken (a
// TakenError); ErrBadBlock.
func Keep(pool Pool, host string, owners map[netip.Addr]string, entries []state.Entry) ([]state.Op, error) {
	if err := pool.check(); err != nil {
		return nil, err
	}
	v := newView(pool.Subnet)
	v.blocks, v.owners = map[int]*block{}, map[string][]netip.Addr{}
	for _, e := range entries {
		if index, err := blockIndex(pool.Subnet, e.Key); err == nil {
			v.put(index, decodeBlock(pool.Subnet, index, e.Value, e.Version))
		}
	}
	changed := map[int]*block{}
	for _, addr := range slices.SortedFunc(maps.Keys(owners), netip.Addr.Compare) {
		owner := owners[addr]
		if err := checkOwner(owner); err != nil {
			return nil, err
		}
		if !pool.Subnet.Contains(addr) {
			return nil, fmt.Errorf("%w: %s is not in %s", ErrOutside, addr, pool.Subnet)
		}
		if what := pool.reserved(addr); what != "" {
			return nil, fmt.Errorf("%w: %s is the %s of %s", ErrReserved, addr, what, pool.Subnet)
		}
		b := v.at(v.indexOf(addr), host)
		if b.err != nil {
			return nil, b.err
		}
		switch who, taken := b.owners[addr]; {
		case who == owner:
			continue
		case taken:
			return nil, &TakenError{Addr: addr, Owner: who}
		}
		b = b.with(addr, owner)
		v.put(b.index, b)
		changed[b.index] = b
	}
	ops := make([]state.Op, 0, len(changed))
	for _, index := range slices.Sorted(maps.Keys(changed)) {
		key := blockKey(pool.Subnet, index)
		value, err := changed[index].encode()
		if err != nil {
			return nil, fmt.Errorf("encode block %q: %w", key, err)
		}
		ops = append(ops, state.Op{Kind: state.OpCAS, Key: key, Value: value, Version: changed[index].version})
	}
	return ops, nil
}
