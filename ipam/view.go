package ipam

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/socketplane/socketplane/agent/state"
)

// view is the cached state of one subnet. It may be older than the store. That costs a
// retry but never gives a wrong result: each write compares the block's version, and an
// op reads the store again before it refuses a request. Only the goroutine that serves
// the queue uses the view.
type view struct {
	subnet netip.Prefix
	queue

	loaded  bool
	blocks  map[int]*block // the claimed blocks
	owners  map[string][]netip.Addr
	current int          // block of the last allocated address
	last    map[int]int  // offset of the last allocated address within each block
	drafts  map[int]bool // blocks with planned changes that are not written yet
}

func newView(subnet netip.Prefix) *view {
	return &view{subnet: subnet, last: map[int]int{}, drafts: map[int]bool{}}
}

// load reads the whole subnet, unless the view is already loaded and valid.
func (v *view) load(ctx context.Context, store Store) error {
	if v.loaded {
		return nil
	}
	entries, err := store.List(ctx, Prefix(v.subnet))
	if err != nil {
		return fmt.Errorf("read addresses of %s: %w", v.subnet, err)
	}
	v.blocks, v.owners = map[int]*block{}, map[string][]netip.Addr{}
	for _, e := range entries {
		if index, err := blockIndex(v.subnet, e.Key); err == nil {
			v.put(index, decodeBlock(v.subnet, index, e.Value, e.Version))
		}
	}
	v.loaded = true
	return nil
}

// reload reads the whole subnet again.
func (v *view) reload(ctx context.Context, store Store) error {
	if len(v.drafts) > 0 {
		return errLater
	}
	v.loaded = false
	return v.load(ctx, store)
}

// refresh reads one block again.
func (v *view) refresh(ctx context.Context, store Store, index int) error {
	if v.drafts[index] {
		return errLater
	}
	e, err := store.Get(ctx, blockKey(v.subnet, index))
	switch {
	case errors.Is(err, state.ErrNotFound):
		v.put(index, nil)
	case err != nil:
		return fmt.Errorf("read block %d of %s: %w", index, v.subnet, err)
	default:
		v.put(index, decodeBlock(v.subnet, index, e.Value, e.Version))
	}
	return nil
}

// put replaces the cached block; nil means that it is not claimed.
func (v *view) put(index int, b *block) {
	if old := v.blocks[index]; old != nil {
		for addr, owner := range old.owners {
			kept := slices.DeleteFunc(v.owners[owner], func(a netip.Addr) bool { return a == addr })
			if len(kept) == 0 {
				delete(v.owners, owner)
			} else {
				v.owners[owner] = kept
			}
		}
	}
	if b == nil {
		delete(v.blocks, index)
		return
	}
	v.blocks[index] = b
	for addr, owner := range b.owners {
		v.owners[owner] = append(v.owners[owner], addr)
	}
}

// draft puts a block into the view before it is written.
func (v *view) draft(b *block) {
	v.put(b.index, b)
	v.drafts[b.index] = true
}

// held returns the addresses of owner. It reads their blocks again, because a view may
// outlive its network, and no write would detect that.
func (v *view) held(ctx context.Context, store Store, owner string) ([]netip.Addr, error) {
	for _, addr := range slices.Clone(v.owners[owner]) {
		if err := v.refresh(ctx, store, v.indexOf(addr)); err != nil {
			return nil, err
		}
	}
	return v.owners[owner], nil
}

// at returns the cached block, or a new one claimed by host.
func (v *view) at(index int, host string) *block {
	if b := v.blocks[index]; b != nil {
		return b
	}
	return &block{index: index, host: host}
}

func (v *view) indexOf(addr netip.Addr) int { return offset(v.subnet, addr) / BlockSize }

func (v *view) freeIn(pool Pool, b *block) (netip.Addr, bool) {
	if b == nil || b.err != nil {
		return netip.Addr{}, false
	}
	after, known := v.last[b.index]
	if !known {
		after = -1
	}
	return b.free(pool, after)
}

// pick chooses the next address for a host: from its current block, from another block of
// its own, from the lowest unclaimed block, and only then from a block of another host.
// lost is the number of races lost so far. It widens the choice of unclaimed blocks, so
// that hosts that start at the same moment choose different ones.
func (v *view) pick(pool Pool, host string, lost int) (netip.Addr, bool) {
	if b := v.blocks[v.current]; b != nil && b.host == host {
		if addr, ok := v.freeIn(pool, b); ok {
			return addr, true
		}
	}
	var others []netip.Addr
	own, found := netip.Addr{}, false
	for _, b := range v.blocks {
		addr, ok := v.freeIn(pool, b)
		switch {
		case !ok:
		case b.host != host:
			others = append(others, addr)
		case !found || addr.Less(own):
			own, found = addr, true
		}
	}
	if found {
		return own, true
	}
	if open := v.unclaimed(pool, lost); len(open) > 0 {
		return open[rand.IntN(len(open))], true
	}
	if len(others) > 0 {
		return others[rand.IntN(len(others))], true
	}
	return netip.Addr{}, false
}

// unclaimed returns the next address of each of the lowest unclaimed blocks: of one block
// at first, and after lost races of 16, 32, and up to 1,024 blocks.
func (v *view) unclaimed(pool Pool, lost int) []netip.Addr {
	want := 1
	if lost > 0 {
		want = 8 << min(lost, 7)
	}
	var open []netip.Addr
	least, most := pool.span()
	for index := least / BlockSize; index <= most/BlockSize && len(open) < want; index++ {
		if v.blocks[index] != nil {
			continue
		}
		if addr, ok := v.freeIn(pool, &block{index: index}); ok {
			open = append(open, addr)
		}
	}
	return open
}
