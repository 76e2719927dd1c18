// Package ipam owns the addresses of a network: it hands out the next free one
// or a wanted one, each to a named owner, and takes them back. The truth is in
// the store, in blocks of 64 addresses that hosts claim; every change is one
// compare-and-set of one block. It never chooses subnets, never touches an
// interface, and never frees an address by itself.
package ipam

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// BlockSize is how many addresses a block holds. With 64, a host of usual size
// lives in one or two blocks and contends with nobody, and a /16 has 1,024
// blocks to spread over hosts.
const BlockSize = 64

// Pool is where addresses come from. The subnet's first address (the network),
// its last (the broadcast address) and the gateway are never handed out.
type Pool struct {
	Subnet  netip.Prefix // IPv4, host bits zero, /30 or larger
	Gateway netip.Addr   // the zero Addr: none
	// Range is where Allocate chooses from; the zero Prefix: the whole subnet. It bounds
	// nothing else: AllocateAddr gives any address of the subnet.
	Range netip.Prefix
	// Avoid is what Allocate does not choose, since somebody may use it without an
	// allocation. Like Range it bounds nothing else.
	Avoid []netip.Prefix
}

// Prefix is under which the blocks of a subnet lie in the store; deleting that
// tree forgets every address of the subnet.
func Prefix(subnet netip.Prefix) string {
	return fmt.Sprintf("%s%s-%d/", BlocksPrefix, subnet.Addr(), subnet.Bits())
}

func blockKey(subnet netip.Prefix, index int) string {
	return Prefix(subnet) + strconv.Itoa(index)
}

// blockIndex reads the index out of a block's key.
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

// span gives the first and the last number (see nth) of the addresses that Allocate
// chooses from.
func (p Pool) span() (least, most int) {
	if !p.Range.IsValid() {
		return 0, subnetSize(p.Subnet) - 1
	}
	least = offset(p.Subnet, p.Range.Addr())
	return least, least + subnetSize(p.Range) - 1
}

// reserved says what an address of the subnet is kept for; empty: for nothing.
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

// avoids says whether Allocate leaves an address alone.
func (p Pool) avoids(addr netip.Addr) bool {
	return slices.ContainsFunc(p.Avoid, func(a netip.Prefix) bool { return a.Contains(addr) })
}

func subnetSize(subnet netip.Prefix) int { return 1 << (32 - subnet.Bits()) }

func blockCount(subnet netip.Prefix) int {
	return (subnetSize(subnet) + BlockSize - 1) / BlockSize
}

// nth is the subnet's address number n; n is inside the subnet.
func nth(subnet netip.Prefix, n int) netip.Addr {
	base := subnet.Addr().As4()
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(base[:])+uint32(n))
	return netip.AddrFrom4(b)
}

// offset is the inverse of nth; addr is inside the subnet.
func offset(subnet netip.Prefix, addr netip.Addr) int {
	base, a := subnet.Addr().As4(), addr.As4()
	return int(binary.BigEndian.Uint32(a[:]) - binary.BigEndian.Uint32(base[:]))
}
