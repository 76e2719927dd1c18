package ipam

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"unicode/utf8"

	"github.com/socketplane/socketplane/agent/stored"
)

const (
	blockVersion = 1   // layout version of a block's value
	maxOwner     = 256 // bytes of an owner; a full block stays far below the store's maximum value
)

// block is one block of the store. A block is immutable.
type block struct {
	index   int
	version uint64 // of the key in the store; 0: absent
	host    string // the host that claims the block; others allocate from it only as a last resort
	owners  owners
	unknown stored.Unknown // members written by later releases
	err     error          // why the value is undecodable; host and owners are then empty
}

// blockValue is the stored form of a block.
type blockValue struct {
	Version int    `json:"version"`
	Host    string `json:"host"`
	Owners  owners `json:"owners"`

	Unknown stored.Unknown `json:"-"`
}

// owners maps each allocated address to its owner.
type owners map[netip.Addr]string

// UnmarshalJSON rejects what encoding/json would accept: a duplicate address, or one that
// is not in canonical form.
func (o *owners) UnmarshalJSON(data []byte) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return errors.New("owners is not an object")
	}
	got := owners{}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return err
		}
		name, _ := t.(string)
		addr, err := netip.ParseAddr(name)
		if err != nil || addr.String() != name {
			return fmt.Errorf("%q is not an address", name)
		}
		if _, twice := got[addr]; twice {
			return fmt.Errorf("address %s is there twice", addr)
		}
		var owner string
		if err := dec.Decode(&owner); err != nil {
			return fmt.Errorf("owner of %s: %w", addr, err)
		}
		if err := checkOwner(owner); err != nil {
			return fmt.Errorf("owner of %s: %w", addr, err)
		}
		got[addr] = owner
	}
	*o = got
	return nil
}

func checkOwner(owner string) error {
	if owner == "" || len(owner) > maxOwner || !utf8.ValidString(owner) {
		return fmt.Errorf("owner %.80q must be 1 to %d bytes of UTF-8", owner, maxOwner)
	}
	return nil
}

// decodeBlock decodes a block's value. It returns errors in the block's err, so that an
// invalid value affects only the addresses of its own block.
func decodeBlock(subnet netip.Prefix, index int, value []byte, version uint64) *block {
	v, err := decodeValue(subnet, index, value)
	if err != nil {
		return &block{index: index, version: version, err: &BadBlockError{Key: blockKey(subnet, index), Cause: err}}
	}
	return &block{index: index, version: version, host: v.Host, owners: v.Owners, unknown: v.Unknown}
}

func decodeValue(subnet netip.Prefix, index int, value []byte) (blockValue, error) {
	var v blockValue
	if err := stored.Decode(value, blockVersion, &v); err != nil {
		return v, err
	}
	if v.Host == "" {
		return v, errors.New("host is empty")
	}
	for addr := range v.Owners {
		if !subnet.Contains(addr) || offset(subnet, addr)/BlockSize != index {
			return v, fmt.Errorf("address %s is not of this block", addr)
		}
	}
	return v, nil
}

func (b *block) encode() ([]byte, error) {
	return stored.Encode(blockValue{Version: blockVersion, Host: b.host, Owners: b.owners, Unknown: b.unknown})
}

// with returns a copy of the block in which owner has addr.
func (b *block) with(addr netip.Addr, owner string) *block {
	next := *b
	next.owners = maps.Clone(b.owners)
	if next.owners == nil {
		next.owners = owners{}
	}
	next.owners[addr] = owner
	return &next
}

// without returns a copy of the block without the addresses of owner.
func (b *block) without(owner string) *block {
	next := *b
	next.owners = maps.Clone(b.owners)
	maps.DeleteFunc(next.owners, func(_ netip.Addr, who string) bool { return who == owner })
	return &next
}

// free returns the next free address after the given offset within the block. It wraps
// around at the end of the block. An offset of -1 begins at the start.
func (b *block) free(pool Pool, after int) (netip.Addr, bool) {
	size := min(BlockSize, subnetSize(pool.Subnet)-b.index*BlockSize)
	least, most := pool.span()
	for i := range size {
		n := b.index*BlockSize + (after+1+i)%size
		if n < least || n > most {
			continue
		}
		addr := nth(pool.Subnet, n)
		if _, held := b.owners[addr]; !held && pool.reserved(addr) == "" && !pool.avoids(addr) {
			return addr, true
		}
	}
	return netip.Addr{}, false
}
