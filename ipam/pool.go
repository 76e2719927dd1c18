// Package ipam manages the addresses of a network. It allocates the next free address or
// a requested one to a named owner, and releases addresses. The state is in the store, in
// blocks of 64 addresses that hosts claim. Every change is one compare-and-set of one
// block. The package never chooses subnets, never touches an interface, and never
// releases an address on its own.
package ipam

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// BlockSize is the number of addresses in a block. With 64, a typical host needs one or
// two blocks and does not contend with other hosts, and a /16 has 1,024 blocks for the
// hosts.
const BlockSize = 64

// Pool describes the addresses to allocate from. The subnet's first address (the network
// address), its last one (the broadcast address) and the gateway are never allocated.
type Pool struct {
	Subnet  netip.Prefix // IPv4, host bits zero, /8 to /30
	Gateway netip.Addr   // zero: none
	// Range is the part of the subnet from which Allocate chooses. The zero Prefix means
	// the whole subnet. Range affects nothing else: AllocateAddr allocates any address
	// of the subnet.
	Range netip.Prefix
	// Avoid lists prefixes from which Allocate does not choose, because their addresses
	// may be in use without an allocation. Like Range, it affects nothing else.
	Avoid []netip.Prefix
}

// Prefix returns the key prefix of the blocks of a subnet. Deleting that tree releases
// every address of the subnet.
func Prefix(subnet netip.Prefix) string {
	return fmt.Sprintf("%s%s-%d/", BlocksPrefix, subnet.Addr(), subnet.Bits())
}

func blockKey(subnet netip.Prefix, index int) string {
	return Prefix(subnet) + strconv.Itoa(index)
}

// blockIndex extracts the index from a block's key.
func blockIndex(subnet netip.Prefix, key string) (int, error) {
	name := strings.TrimPrefix(key, Prefix(subnet))
	index, err := strconv.Atoi(name)
	if err != nil || strconv.Itoa(index) != name || index < 0 || index >= blockCount(subnet) {
		return 0, fmt.Errorf("%q is no block of subnet %s", name, subnet)
	}
	return index, nil
}

func checkSubnet(subnet netip.Prefix) error {
	if !subnet.IsValid() || !subnet.Addr().Is4() || subnet.Masked() != subnet || subnet.Bits() > 30 || subnet.Bits() < 8 {
		return fmt.Errorf("pool %s: not an IPv4 subnet from /8 to /30 with host bits zero", subnet)
	}
	return nil
}

func (p Pool) check() error {
	if err := checkSubnet(p.Subnet); err != nil {
		return err
	}
	if p.Gateway.IsValid() && !p.Subnet.Contains(p.Gateway) {
		return fmt.Errorf("pool %s: gateway %s is outside", p.Subnet, p.Gateway)
	}
	if p.Range != (netip.Prefix{}) && (!p.Range.IsValid() || p.Range.Masked() != p.Range || p.Range.Bits() < p.Subnet.Bits() || !p.Subnet.Contains(p.Range.Addr())) {
		return fmt.Errorf("pool %s: range %s is not a part of it", p.Subnet, p.Range)
	}
	return nil
}

// span returns the first and the last number (see nth) of the addresses from which
// Allocate chooses.
func (p Pool) span() (least, most int) {
	if !p.Range.IsValid() {
		return 0, subnetSize(p.Subnet) - 1
	}
	least = offset(p.Subnet, p.Range.Addr())
	return least, least + subnetSize(p.Range) - 1
}

// reserved returns what an address of the subnet is reserved for, or "" if it is not
// reserved.
func (p Pool) reserved(addr netip.Addr) string {
	switch addr {
	case p.Gateway:
		return "gateway"
	case p.Subnet.Addr():
		return "network address"
	case nth(p.Subnet, subnetSize(p.Subnet)-1):
		return "broadcast address"
	}
	return ""
}

// avoids reports whether Allocate must not choose addr.
func (p Pool) avoids(addr netip.Addr) bool {
	return slices.ContainsFunc(p.Avoid, func(a netip.Prefix) bool { return a.Contains(addr) })
}

func subnetSize(subnet netip.Prefix) int { return 1 << (32 - subnet.Bits()) }

func blockCount(subnet netip.Prefix) int {
	return (subnetSize(subnet) + BlockSize - 1) / BlockSize
}

// nth returns the subnet's address number n. n must be inside the subnet.
func nth(subnet netip.Prefix, n int) netip.Addr {
	base := subnet.Addr().As4()
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(base[:])+uint32(n))
	return netip.AddrFrom4(b)
}

// offset is the inverse of nth. addr must be inside the subnet.
func offset(subnet netip.Prefix, addr netip.Addr) int {
	base, a := subnet.Addr().As4(), addr.As4()
	return int(binary.BigEndian.Uint32(a[:]) - binary.BigEndian.Uint32(base[:]))
}
