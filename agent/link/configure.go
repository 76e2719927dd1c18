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

// Config is what an interface gets inside the namespace of its container.
type Config struct {
	IfName       string       // such as eth0
	Addr         netip.Prefix // address and length of the subnet
	Gateway      netip.Addr
	MAC          string
	MTU          int  // bytes
	DefaultRoute bool // a default route by Gateway, unless the namespace has one
}

// loopbackIndex is the index of lo in every namespace (LOOPBACK_IFINDEX).
const loopbackIndex = 1

// Configure moves a peer that EnsureVeth made into a namespace, unless it was
// born there, and gives it all that c says. An interface that is there already
// and up is left as it is, and only what it lacks is set. A failure before
// that takes the peer back to the host, as peer, so that nothing
// half-configured stays in a namespace.
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
		if err != nil && !isUp(there) { // just born there
			err = errors.Join(err, l.takeBack(inside, own, there, peer))
		}
		return err
	}
	return l.moveIn(host, inside, ns, own, waiting, c, mac)
}

// isOurs tells the endpoint's interface from another of its name.
func (l *Links) isOurs(host *conn, ns *namespace, there netlink.Link, peer string, mac net.HardwareAddr) error {
	if there.Type() != "veth" || there.Attrs().HardwareAddr.String() != mac.String() {
		return fmt.Errorf("it is a %s with MAC %s, not %s: %w", there.Type(), there.Attrs().HardwareAddr, mac, ErrExists)
	}
	hostName, known := hostOf(peer)
	if !known {
		return nil // a caller with names of its own: type and MAC must do
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

// moveIn moves the peer and furnishes it, or takes it back.
func (l *Links) moveIn(host, inside *conn, ns, own *namespace, waiting netlink.Link, c Config, mac net.HardwareAddr) (err error) {
	name := waiting.Attrs().Name
	if err := host.mendLink(waiting, 0, mac); err != nil {
		return err
	}
	if moveErr := host.move(waiting.Attrs().Index, ns.fd(), c.IfName, c.MTU); moveErr != nil {
		// The kernel moves first and renames then: a name taken since the
		// lookup leaves the peer inside under its old one.
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
	// The index may be another one in there.
	moved, err := inside.byName(c.IfName)
	if err != nil || moved == nil {
		return errors.Join(fmt.Errorf("find it in the namespace: %w", ErrNotFound), err)
	}
	if err := inside.furnish(moved, c); err != nil {
		return errors.Join(err, l.takeBack(inside, own, moved, name))
	}
	return nil
}

// takeBack undoes a move: the peer is on the host again, bare and down.
func (l *Links) takeBack(inside *conn, own *namespace, link netlink.Link, name string) error {
	err := inside.move(link.Attrs().Index, own.fd(), name, 0)
	if err == nil {
		return nil
	}
	// Better no interface than one in a strange state.
	l.log.Warn("could not take the peer back; deleting it", "port", name, "err", err)
	if err := inside.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("take %q back: %w", name, err)
	}
	return nil
}

// furnish gives an interface of this namespace what c says and it lacks.
func (c *conn) furnish(link netlink.Link, cfg Config) error {
	if err := c.mendLink(link, cfg.MTU, nil); err != nil {
		return err
	}
	up := isUp(link)
	if !up {
		// No link-local address, so no router solicitations: networks are
		// IPv4, and the switch drops the rest. EAFNOSUPPORT and EOPNOTSUPP
		// come from kernels without IPv6.
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

// ensureDefault adds a default route unless there is one, by whatever way.
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

// routes lists the IPv4 routes of the main table.
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

// ipNet is a prefix in the library's terms.
func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// prefixOf is the reverse of ipNet; it is not valid for what is no prefix.
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
