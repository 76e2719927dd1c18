package link

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Gateway describes the gateway port of a network on this host. The switch creates the
// port before, and removes it with its own record.
type Gateway struct {
	Name   string       // result of GatewayName
	MAC    string       // the same on every host
	Addr   netip.Prefix // the gateway's address with the prefix length of the subnet
	MTU    int          // bytes
	Source netip.Addr   // this host's source address for the subnet, its VTEP: all hosts share the gateway's address
	// Userspace means that the port is a tap of a userspace switch.
	Userspace bool
	Routes    []Route // destinations that this host reaches through an endpoint of the network
	// KeepRoutes means that Routes may be incomplete. The port then keeps the routes
	// that it has in addition to these.
	KeepRoutes bool
}

// Route is a route to a destination behind an endpoint.
type Route struct {
	Prefix netip.Prefix // IPv4, outside the network's subnet
	Via    netip.Addr   // inside the network's subnet
}

// routeProtocol is the protocol of our routes as `ip route` shows it: RTPROT_STATIC.
const routeProtocol = unix.RTPROT_STATIC

// EnsureGateway sets the MAC, MTU, address and routes of a gateway port. It changes only
// what differs, so every converge may call it.
func (l *Links) EnsureGateway(ctx context.Context, g Gateway) error {
	if err := l.ensureGateway(ctx, g); err != nil {
		return fmt.Errorf("set up gateway port %q: %w", g.Name, err)
	}
	return nil
}

func (l *Links) ensureGateway(ctx context.Context, g Gateway) error {
	mac, err := net.ParseMAC(g.MAC)
	if err != nil {
		return err
	}
	if !g.Addr.IsValid() || !g.Addr.Addr().Is4() {
		return fmt.Errorf("address %s is not IPv4", g.Addr)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	c, err := l.acquire()
	if err != nil {
		return err
	}
	defer l.release(c)
	port, err := c.mustFind(g.Name)
	if err != nil {
		return err
	}
	if err := gatewaySysctls(g.Name); err != nil {
		return err
	}
	if g.Userspace {
		if err := disableTxChecksum(nil, nil, g.Name); err != nil {
			return err
		}
	}
	if err := c.mendLink(port, g.MTU, mac); err != nil {
		return err
	}
	if err := c.onlyAddress(port, g.Addr); err != nil {
		return err
	}
	if port.Attrs().RawFlags&unix.IFF_UP == 0 {
		if err := c.LinkSetUp(port); err != nil {
			return fmt.Errorf("set up: %w", err)
		}
	}
	if err := c.subnetRoute(port, g); err != nil {
		return err
	}
	return c.onlyRoutes(port, g)
}

// onlyRoutes sets the port's routes to destinations behind endpoints and removes all
// others of ours. RouteReplace changes nothing if the route already exists.
func (c *conn) onlyRoutes(port netlink.Link, g Gateway) error {
	have, err := dump(func() ([]netlink.Route, error) {
		return c.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{LinkIndex: port.Attrs().Index, Protocol: routeProtocol, Table: unix.RT_TABLE_MAIN},
			netlink.RT_FILTER_OIF|netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	want := map[netip.Prefix]bool{}
	for _, r := range g.Routes {
		want[r.Prefix] = true
	}
	for _, r := range have {
		if g.KeepRoutes || r.Gw == nil || r.Dst != nil && want[prefixOf(r.Dst)] {
			continue
		}
		if err := c.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("remove route %s: %w", r.Dst, err)
		}
	}
	for _, r := range g.Routes {
		if !r.Prefix.IsValid() || !r.Prefix.Addr().Is4() || r.Prefix.Bits() == 0 || r.Prefix.Overlaps(g.Addr.Masked()) || !g.Addr.Contains(r.Via) {
			return fmt.Errorf("route %s via %s does not lead out of %s", r.Prefix, r.Via, g.Addr.Masked())
		}
		route := &netlink.Route{LinkIndex: port.Attrs().Index, Dst: ipNet(r.Prefix), Gw: r.Via.AsSlice(), Protocol: routeProtocol}
		if g.Source.IsValid() {
			route.Src = g.Source.AsSlice()
		}
		if err := c.RouteReplace(route); err != nil {
			return fmt.Errorf("route %s via %s: %w", r.Prefix, r.Via, err)
		}
	}
	return nil
}

// gatewaySysctls sets the sysctls that must be in place before the port comes up.
func gatewaySysctls(name string) error {
	if err := disableIPv6(name); err != nil {
		return err
	}
	for _, s := range []struct{ key, value string }{
		// 1: answer ARP only for addresses of this port, not for the underlay address or
		// the gateway of another network.
		{"arp_ignore", "1"},
		// 1, strict (RFC 3704): accept only packets from the subnet on this port.
		{"rp_filter", "1"},
		// 1: packets from 127.0.0.1 to a published port may leave by this port, and
		// answers may return. Package nat closes what else this opens.
		{"route_localnet", "1"},
	} {
		if err := setSysctl("net/ipv4/conf/"+name+"/"+s.key, s.value); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// onlyAddress leaves the port with one IPv4 address and without the route that the kernel
// adds for an address. That route has the shared gateway address as its source, so the
// answer would end at the other host's own gateway.
func (c *conn) onlyAddress(port netlink.Link, want netip.Prefix) error {
	addrs, err := dump(func() ([]netlink.Addr, error) { return c.AddrList(port, netlink.FAMILY_V4) })
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	have := false
	for _, a := range addrs {
		if prefixOf(a.IPNet) == want && a.Flags&unix.IFA_F_NOPREFIXROUTE != 0 {
			have = true
			continue
		}
		if err := c.AddrDel(port, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("remove address %s: %w", a.IPNet, err)
		}
	}
	if have {
		return nil
	}
	err = c.AddrAdd(port, &netlink.Addr{IPNet: ipNet(want), Flags: unix.IFA_F_NOPREFIXROUTE})
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add address %s: %w", want, err)
	}
	return nil
}

// subnetRoute is `ip route replace SUBNET dev NAME src Source`. The kernel does nothing
// if the route already exists.
func (c *conn) subnetRoute(port netlink.Link, g Gateway) error {
	source := g.Source
	if !source.IsValid() {
		source = g.Addr.Addr()
	}
	subnet := g.Addr.Masked()
	err := c.RouteReplace(&netlink.Route{
		LinkIndex: port.Attrs().Index, Dst: ipNet(subnet), Src: source.AsSlice(),
		Scope: netlink.SCOPE_LINK, Protocol: routeProtocol,
	})
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("route %s from %s, which must be an address of this host: %w", subnet, source, err)
	}
	if err != nil {
		return fmt.Errorf("route %s from %s: %w", subnet, source, err)
	}
	return nil
}
