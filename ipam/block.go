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
	blockVersion = 1   // layout of a block's value
	maxOwner     = 256 // bytes of an owner's name: a full block stays far below the store's largest value
)

// block is one block as the store has it. It is never changed once made.
type block struct {
	index   int
	version uint64 // of the key in the store; 0: not there
	host    string // whose block it is; others take from it only when nothing else is left
	owners  owners
	unknown stored.Unknown // what later releases have written beside
	err     error          // why the value could not be decoded; then host and owners are empty
}

// blockValue is a block's value in the store.
type blockValue struct {
	Version int    `json:"version"`
	Host    string `json:"host"`
	Owners  owners `json:"owners"`

	Unknown stored.Unknown `json:"-"`
}

// owners is who has which address.
type owners map[netip.Addr]string

// UnmarshalJSON refuses what encoding/json would let pass: an address that is
// there twice, or not written as we write it.
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

// decodeBlock reads a block's value. What is wrong with it is in err of
// the block, so that a bad value stops only its own addresses.
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

// with gives the block with addr held by owner.
func (b *block) with(addr netip.Addr, owner string) *block {
	next := *b
	next.owners = maps.Clone(b.owners)
	if next.owners == nil {
		next.owners = owners{}
	}
	next.owners[addr] = owner
	return &next
}

// without gives the block with nothing held by owner.
func (b *block) without(owner string) *block {
	next := *b
	next.owners = maps.Clone(b.owners)
	maps.DeleteFunc(next.owners, func(_ netip.Addr, who string) bool { return who == owner })
	return &next
}

// free finds the next free address behind the offset after within the block, and
// begins again at the block's start behind its end. after -1 begins at the start.
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
