package ipam

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/socketplane/socketplane/agent/state"
)

// Listing contains the blocks of all subnets at one moment.
type Listing struct {
	blocks map[string][]state.Entry // by the key prefix of the subnet
}

// ListAll reads the blocks of all subnets in one call of the store. Of decodes them on
// demand.
func (a *Allocator) ListAll(ctx context.Context) (*Listing, error) {
	entries, err := a.store.List(ctx, BlocksPrefix)
	if err != nil {
		return nil, fmt.Errorf("list the addresses of all subnets: %w", err)
	}
	l := &Listing{blocks: map[string][]state.Entry{}}
	for _, e := range entries {
		name, _, _ := strings.Cut(strings.TrimPrefix(e.Key, BlocksPrefix), "/")
		prefix := BlocksPrefix + name + "/"
		l.blocks[prefix] = append(l.blocks[prefix], e)
	}
	return l, nil
}

// Of returns the allocations of a subnet, like Allocator.List.
func (l *Listing) Of(subnet netip.Prefix) ([]Allocation, error) {
	if err := checkSubnet(subnet); err != nil {
		return nil, err
	}
	return allocations(subnet, l.blocks[Prefix(subnet)])
}

// List returns all allocations of a subnet, sorted by address. If blocks cannot be
// decoded, List returns the allocations of the others together with an error that joins a
// BadBlockError for each.
func (a *Allocator) List(ctx context.Context, subnet netip.Prefix) ([]Allocation, error) {
	if err := checkSubnet(subnet); err != nil {
		return nil, err
	}
	entries, err := a.store.List(ctx, Prefix(subnet))
	if err != nil {
		return nil, fmt.Errorf("list addresses of %s: %w", subnet, err)
	}
	return allocations(subnet, entries)
}

func allocations(subnet netip.Prefix, entries []state.Entry) ([]Allocation, error) {
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
