package link

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Uplinks are the interfaces by which this host reaches other networks.
type Uplinks struct {
	Underlay string   // the interface with the tunnel address; empty if none has it
	Silent   bool     // the underlay is a dummy or loopback that only holds the address and receives no packets
	Names    []string // all uplinks, including the underlay, sorted
	// Subnets are the subnets on all interfaces of the host, uplinks or not, except
	// loopback and our own. They are sorted.
	Subnets []Subnet
}

// Carriers returns the interfaces that receive packets for the tunnel address. This is
// the underlay, or all other uplinks if the underlay is silent. There are none if no
// interface has the address.
func (u Uplinks) Carriers() []string {
	switch {
	case u.Silent:
		return slices.DeleteFunc(slices.Clone(u.Names), func(name string) bool { return name == u.Underlay })
	case u.Underlay == "":
		return nil
	}
	return []string{u.Underlay}
}

// Subnet is a subnet that this host reaches on an interface without a router.
type Subnet struct {
	Interface string
	Prefix    netip.Prefix
}

// Uplinks returns the interfaces by which containers may leave the host. These are the
// one with the tunnel address, those of default routes, network cards, the links on top
// of them (VLANs, bonds, bridges with a card), and layer 3 tunnels. Bridges with only
// containers or virtual machines, veth pairs and taps are no uplinks.
func (l *Links) Uplinks(ctx context.Context, vtep netip.Addr) (Uplinks, error) {
	var up Uplinks
	if err := ctx.Err(); err != nil {
		return up, err
	}
	c, err := l.acquire()
	if err != nil {
		return up, err
	}
	defer l.release(c)
	links, err := dump(c.LinkList)
	if err != nil {
		return up, fmt.Errorf("list interfaces: %w", err)
	}
	byRoute, err := c.defaultRouteLinks()
	if err != nil {
		return up, err
	}
	byAddr, err := c.linkOf(vtep)
	if err != nil {
		return up, err
	}
	carded := map[int]bool{} // bridges with a port that is an uplink of its own
	for _, link := range links {
		if a := link.Attrs(); a.MasterIndex != 0 && leadsOut(link) {
			carded[a.MasterIndex] = true
		}
	}
	named := map[int]string{}
	for _, link := range links {
		a := link.Attrs()
		if a.Index == byAddr {
			up.Underlay = a.Name
			up.Silent = a.RawFlags&unix.IFF_LOOPBACK != 0 || link.Type() == "dummy"
		}
		if isOurs(a.Name) || a.RawFlags&unix.IFF_LOOPBACK != 0 {
			continue
		}
		named[a.Index] = a.Name
		if a.Index == byAddr || byRoute[a.Index] || leadsOut(link) || link.Type() == "bridge" && carded[a.Index] {
			up.Names = append(up.Names, a.Name)
		}
	}
	slices.Sort(up.Names)
	addrs, err := c.addrsOf(nil)
	if err != nil {
		return up, err
	}
	for _, a := range addrs {
		if p := prefixOf(a.IPNet); p.IsValid() && named[a.LinkIndex] != "" {
			up.Subnets = append(up.Subnets, Subnet{Interface: named[a.LinkIndex], Prefix: p.Masked()})
		}
	}
	slices.SortFunc(up.Subnets, func(a, b Subnet) int {
		return cmp.Or(strings.Compare(a.Interface, b.Interface), a.Prefix.Compare(b.Prefix))
	})
	up.Subnets = slices.Compact(up.Subnets)
	return up, nil
}

// Docker 29 and newer can use nftables for their packet filter. It then has one table,
// with a chain for each of Docker's bridges (moby,
// daemon/libnetwork/drivers/bridge/internal/nftabler).
const (
	dockersTable = "docker-bridges"
	dockersChain = "filter-forward-in__" // + bridge
)

// DockersBridges returns the sorted names of the bridges for which Docker has nftables
// chains. There are none if Docker uses iptables or is not installed.
func (l *Links) DockersBridges(context.Context) ([]string, error) {
	chains, err := chainsOfIPv4()
	for _, none := range []error{unix.EOPNOTSUPP, unix.EPROTONOSUPPORT, unix.EAFNOSUPPORT, unix.ENOENT} {
		if errors.Is(err, none) { // a kernel without nftables
			return nil, nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("list the chains of nftables: %w", err)
	}
	var bridges []string
	for _, c := range chains {
		if name, ok := strings.CutPrefix(c.Name, dockersChain); ok && c.Table.Name == dockersTable && !isOurs(name) {
			bridges = append(bridges, name)
		}
	}
	slices.Sort(bridges)
	return bridges, nil
}

func chainsOfIPv4() ([]*nftables.Chain, error) {
	nft, err := nftables.New()
	if err != nil {
		return nil, err
	}
	return nft.ListChainsOfTableFamily(nftables.TableFamilyIPv4)
}

func isOurs(name string) bool {
	return slices.ContainsFunc([]string{GatewayPrefix, HostPrefix, PeerPrefix}, func(p string) bool { return strings.HasPrefix(name, p) })
}

// outward are the kinds of interfaces (IFLA_INFO_KIND) that lead out of the host, whether
// or not they have an address or a route. Package netlink uses "device" for the empty
// kind of a network card.
var outward = map[string]bool{
	"device": true, "vlan": true, "bond": true, "team": true, "wireguard": true, "ppp": true,
	"ipip": true, "sit": true, "gre": true, "vti": true, "xfrm": true,
}

// fallback are the devices that the kernel creates when it loads a module. Nobody has
// configured them, so they carry nothing, but their kind is in outward.
var fallback = map[string]bool{"tunl0": true, "sit0": true, "gre0": true, "ip_vti0": true}

func leadsOut(link netlink.Link) bool {
	a := link.Attrs()
	if fallback[a.Name] || a.RawFlags&unix.IFF_LOOPBACK != 0 {
		return false
	}
	if tun, ok := link.(*netlink.Tuntap); ok { // a tap carries the frames of a virtual machine
		return tun.Mode == netlink.TUNTAP_MODE_TUN
	}
	return outward[link.Type()]
}

func (c *conn) defaultRouteLinks() (map[int]bool, error) {
	routes, err := c.routes()
	if err != nil {
		return nil, err
	}
	links := map[int]bool{}
	for _, r := range routes {
		if !isDefault(r) {
			continue
		}
		for _, hop := range hops(r) {
			links[hop] = true
		}
	}
	return links, nil
}

// linkOf returns the index of the interface with an address, or 0 if none has it.
func (c *conn) linkOf(addr netip.Addr) (int, error) {
	addrs, err := dump(func() ([]netlink.Addr, error) { return c.AddrList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return 0, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		if p := prefixOf(a.IPNet); p.IsValid() && p.Addr() == addr {
			return a.LinkIndex, nil
		}
	}
	return 0, nil
}
