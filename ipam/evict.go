package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/socketplane/socketplane/agent/state"
)

// BlocksPrefix is the prefix of the blocks of all subnets.
const BlocksPrefix = state.Prefix + "ipam/"

// Evict returns the operation that removes a host from a block: the addresses of its
// owners and its claim to the block. hostOf returns the host of an owner. If other hosts
// have addresses in the block, the host of the lowest address gets the claim. An empty
// block is deleted. some is false if there is nothing to remove. The error is a
// BadBlockError for an undecodable block, which is left unchanged.
func Evict(e state.Entry, host string, hostOf func(owner string) string) (op state.Op, some bool, err error) {
	subnet, index, err := parseBlockKey(e.Key)
	if err != nil {
		return op, false, &BadBlockError{Key: e.Key, Cause: err}
	}
	b := decodeBlock(subnet, index, e.Value, e.Version)
	if b.err != nil {
		return op, false, b.err
	}
	var lowest netip.Addr
	next := *b
	next.owners = owners{}
	for addr, owner := range b.owners {
		if hostOf(owner) == host {
			continue
		}
		next.owners[addr] = owner
		if !lowest.IsValid() || addr.Less(lowest) {
			lowest = addr
		}
	}
	switch {
	case len(next.owners) == len(b.owners) && b.host != host:
		return op, false, nil
	case len(next.owners) == 0:
		return state.Op{Kind: state.OpDelete, Key: e.Key, Version: e.Version}, true, nil
	case b.host == host:
		next.host = hostOf(next.owners[lowest])
	}
	value, err := next.encode()
	if err != nil {
		return op, false, fmt.Errorf("encode block %q: %w", e.Key, err)
	}
	return state.Op{Kind: state.OpCAS, Key: e.Key, Value: value, Version: e.Version}, true, nil
}

// parseBlockKey is the inverse of blockKey.
func parseBlockKey(key string) (netip.Prefix, int, error) {
	name, number, _ := strings.Cut(strings.TrimPrefix(key, BlocksPrefix), "/")
	text, bits, _ := strings.Cut(name, "-")
	addr, err := netip.ParseAddr(text)
	length, bitsErr := strconv.Atoi(bits)
	if err := errors.Join(err, bitsErr); err != nil {
		return netip.Prefix{}, 0, fmt.Errorf("%q names no subnet: %w", name, err)
	}
	subnet := netip.PrefixFrom(addr, length)
	if err := checkSubnet(subnet); err != nil {
		return netip.Prefix{}, 0, err
	}
	if Prefix(subnet)+number != key {
		return netip.Prefix{}, 0, fmt.Errorf("%q is no block of subnet %s", number, subnet)
	}
	index, err := blockIndex(subnet, key)
	return subnet, index, err
}
