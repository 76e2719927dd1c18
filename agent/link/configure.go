package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Config is the configuration of an interface inside its container's namespace.
type Config struct {
	IfName       string       // such as eth0
	Addr         netip.Prefix // address with the prefix length of the subnet
	Gateway      netip.Addr
	MAC          string
	MTU          int  // bytes
	DefaultRoute bool // add a default route via Gateway unless the namespace has one
}

// loopbackIndex is the index of lo in every namespace (LOOPBACK_IFINDEX).
const loopbackIndex = 1

// Configure configures the container end of a pair from EnsureVeth inside a namespace. It
// first moves the end there, unless EnsureVeth created it there. If the interface is
// already there and up, Configure only corrects its MTU and adds what is missing. If it
// fails on an interface that was not up, it moves the end back to the host under the name
// peer, so that no half-configured interface stays in the namespace.
func (l *Links) Configure(ctx context.Context, peer, nsPath string, c Config) error {
	if err := l.configure(ctx, peer, nsPath, c); err != nil {
		return fmt.Errorf("configure %q: %w", c.IfName, err)
	}
	return nil
}

func (l *Links) configure(ctx context.Context, peer, nsPath string, c Config) error {
	mac, err := net.ParseMAC(c.MAC)
	if err != nil {
		return err
	}
	if err := errors.Join(checkName(peer), checkName(c.IfName), ctx.Err()); err != nil {
		return err
	}
	if !c.Addr.IsValid() || (c.DefaultRoute && !c.Gateway.IsValid()) {
		return fmt.Errorf("address %s or gateway %s is not valid", c.Addr, c.Gateway)
	}
	ns, own, err := openContainer(nsPath)
	if err != nil {
		return err
	}
	defer ns.Close()
	defer own.Close()
	host, err := l.acquire()
	if err != nil {
		return err
	}
	defer l.release(host)
	inside, err := ns.dial()
	if err != nil {
		return err
	}
	defer inside.Close()

	waiting, err := host.byName(peer)
	if err != nil {
		return err
	}
	there, err := inside.byName(c.IfName)
	if err != nil {
		return err
	}
	switch {
	case waiting == nil && there == nil:
		return fmt.Errorf("%q is neither on the host nor in %q: %w", peer, nsPath, ErrNotFound)
	case waiting != nil && there != nil:
		return fmt.Errorf("%q in %q: %w", c.IfName, nsPath, ErrExists)
	case there != nil:
		if err := l.isOurs(host, ns, there, peer, mac); err != nil {
			return fmt.Errorf("%q in %q: %w", c.IfName, nsPath, err)
		}
		err := inside.furnish(there, c)
		if err != nil && !isUp(there) { // created there by EnsureVeth
			err = errors.Join(err, l.takeBack(inside, own, there, peer))
		}
		return err
	}
	return l.moveIn(host, inside, ns, own, waiting, c, mac)
}

// isOurs returns an error unless the interface is the endpoint's own.
func (l *Links) isOurs(host *conn, ns *namespace, there netlink.Link, peer string, mac net.HardwareAddr) error {
	if there.Type() != "veth" || there.Attrs().HardwareAddr.String() != mac.String() {
		return fmt.Errorf("it is a %s with MAC %s, not %s: %w", there.Type(), there.Attrs().HardwareAddr, mac, ErrExists)
	}
	hostName, known := hostOf(peer)
	if !known {
		return nil // the caller chose the name: type and MAC must suffice
	}
	end, err := host.byName(hostName)
	if err != nil {
		return err
	}
	id, err := host.GetNetNsIdByFd(ns.fd())
	if err != nil {
		return fmt.Errorf("identify the namespace: %w", err)
	}
	if end == nil || end.Attrs().NetNsID != id || end.Attrs().ParentIndex != there.Attrs().Index {
		return fmt.Errorf("it is not the peer of %q: %w", hostName, ErrExists)
	}
	return nil
}

// moveIn moves the peer and configures it. It moves the peer back if that fails.
func (l *Links) moveIn(host, inside *conn, ns, own *namespace, waiting netlink.Link, c Config, mac net.HardwareAddr) (err error) {
	name := waiting.Attrs().Name
	if err := host.mendLink(waiting, 0, mac); err != nil {
		return err
	}
	if moveErr := host.move(waiting.Attrs().Index, ns.fd(), c.IfName, c.MTU); moveErr != nil {
		// The kernel moves first and renames then. If the name was taken after the
		// lookup, the peer is inside under its old name.
		err = fmt.Errorf("move into the namespace: %w", moveErr)
		if errors.Is(moveErr, unix.EEXIST) {
			err = fmt.Errorf("move into the namespace: %w: %w", ErrExists, moveErr)
		}
		stray, lookErr := inside.byName(name)
		if stray == nil {
			return errors.Join(err, lookErr)
		}
		return errors.Join(err, l.takeBack(inside, own, stray, name))
	}
	// The index may differ inside the namespace.
	moved, err := inside.byName(c.IfName)
	if err != nil || moved == nil {
		return errors.Join(fmt.Errorf("find it in the namespace: %w", ErrNotFound), err)
	}
	if err := inside.furnish(moved, c); err != nil {
		return errors.Join(err, l.takeBack(inside, own, moved, name))
	}
	return nil
}

// takeBack undoes a move: the peer is on the host again, down and without addresses.
func (l *Links) takeBack(inside *conn, own *namespace, link netlink.Link, name string) error {
	err := inside.move(link.Attrs().Index, own.fd(), name, 0)
	if err == nil {
		return nil
	}
	// No interface is better than one in an undefined state.
	l.log.Warn("could not take the peer back; deleting it", "port", name, "err", err)
	if err := inside.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("take %q back: %w", name, err)
	}
	return nil
}

// furnish sets what an interface of this namespace lacks of cfg.
func (c *conn) furnish(link netlink.Link, cfg Config) error {
	if err := c.mendLink(link, cfg.MTU, nil); err != nil {
		return err
	}
	up := isUp(link)
	if !up {
		// The interface needs no link-local address, and so sends no router
		// solicitations: networks are IPv4, and the switch drops the rest. Kernels
		// without IPv6 return EAFNOSUPPORT or EOPNOTSUPP.
		err := c.LinkSetIP6AddrGenMode(link, nl6AddrGenNone)
		if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) && !errors.Is(err, unix.EOPNOTSUPP) {
			return fmt.Errorf("turn off IPv6 address generation: %w", err)
		}
	}
	addr := &netlink.Addr{IPNet: ipNet(cfg.Addr)}
	if err := c.AddrAdd(link, addr); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add address %s: %w", cfg.Addr, err)
	}
	for _, index := range []int{loopbackIndex, link.Attrs().Index} {
		if up && index != loopbackIndex {
			continue
		}
		if err := c.LinkSetUp(ref(index)); err != nil {
			return fmt.Errorf("set up: %w", err)
		}
	}
	if !cfg.DefaultRoute {
		return nil
	}
	return c.ensureDefault(link, cfg.Gateway)
}

// nl6AddrGenNone is IN6_ADDR_GEN_MODE_NONE of linux/if_link.h.
const nl6AddrGenNone = 1

// ensureDefault adds a default route unless the namespace has any.
func (c *conn) ensureDefault(link netlink.Link, gateway netip.Addr) error {
	routes, err := c.routes()
	if err != nil {
		return err
	}
	for _, r := range routes {
		if isDefault(r) {
			return nil
		}
	}
	route := &netlink.Route{LinkIndex: link.Attrs().Index, Gw: gateway.AsSlice()}
	if err := c.RouteAdd(route); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add default route via %s: %w", gateway, err)
	}
	return nil
}

// routes returns the IPv4 routes of the main table.
func (c *conn) routes() ([]netlink.Route, error) {
	routes, err := dump(func() ([]netlink.Route, error) {
		return c.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{}, 0)
	})
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	return routes, nil
}

func isUp(link netlink.Link) bool { return link.Attrs().RawFlags&unix.IFF_UP != 0 }

func isDefault(r netlink.Route) bool {
	if r.Dst == nil {
		return true
	}
	ones, _ := r.Dst.Mask.Size()
	return ones == 0
}

// ipNet converts a prefix to a net.IPNet.
func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// prefixOf is the reverse of ipNet. It returns an invalid prefix if n is none.
func prefixOf(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	ones, bits := n.Mask.Size()
	if !ok || bits == 0 {
		return netip.Prefix{}
	}
	return netip.PrefixFrom(addr.Unmap(), ones)
}
