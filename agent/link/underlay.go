package link

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Underlay is the interface and address that the host's tunnels use.
type Underlay struct {
	Interface string
	Addr      netip.Addr // IPv4, the VTEP
	MTU       int        // bytes
}

func (u Underlay) String() string { return fmt.Sprintf("%s (%s)", u.Interface, u.Addr) }

// Underlay returns the host's underlay. If iface is not empty, this is the named
// interface. Otherwise it is the interface of the default route, or else the interface
// with the only global IPv4 address. The last search ignores loopback addresses, gateway
// ports and Docker's own bridges. If it finds no candidate or several, the error says so
// and lists them.
func (l *Links) Underlay(iface string) (Underlay, error) {
	c, err := l.acquire()
	if err != nil {
		return Underlay{}, err
	}
	defer l.release(c)
	if iface != "" {
		return c.underlayAt(iface)
	}
	if u, ok, err := c.underlayOfDefault(); err != nil || ok {
		return u, err
	}
	candidates, err := c.underlays()
	if err != nil {
		return Underlay{}, err
	}
	switch len(candidates) {
	case 1:
		return candidates[0], nil
	case 0:
		return Underlay{}, fmt.Errorf("find the underlay: no default route and no interface with a global IPv4 address: %w", ErrNotFound)
	}
	var names []string
	for _, u := range candidates {
		names = append(names, u.String())
	}
	return Underlay{}, fmt.Errorf("find the underlay: no default route and several candidates, name one: %s", strings.Join(names, ", "))
}

// underlayAt returns the named interface with its first address.
func (c *conn) underlayAt(iface string) (Underlay, error) {
	link, err := c.mustFind(iface)
	if err != nil {
		return Underlay{}, fmt.Errorf("find the underlay: %w", err)
	}
	addrs, err := c.globalAddrs(link)
	if err != nil {
		return Underlay{}, err
	}
	if len(addrs) == 0 {
		return Underlay{}, fmt.Errorf("find the underlay: interface %q has no IPv4 address", iface)
	}
	return underlayOf(link, addrs[0].addr), nil
}

// underlayOfDefault returns the interface of the default route with the lowest metric. It
// prefers the source address of the route to the interface's first address.
func (c *conn) underlayOfDefault() (Underlay, bool, error) {
	routes, err := c.routes()
	if err != nil {
		return Underlay{}, false, err
	}
	routes = slices.DeleteFunc(routes, func(r netlink.Route) bool { return !isDefault(r) || len(hops(r)) == 0 })
	slices.SortStableFunc(routes, func(a, b netlink.Route) int { return cmp.Compare(a.Priority, b.Priority) })
	for _, r := range routes {
		link, err := c.LinkByIndex(hops(r)[0])
		if err != nil {
			continue // the link disappeared after the dump
		}
		if src, ok := netip.AddrFromSlice(r.Src); ok {
			return underlayOf(link, src.Unmap()), true, nil
		}
		addrs, err := c.globalAddrs(link)
		if err != nil {
			return Underlay{}, false, err
		}
		if len(addrs) > 0 {
			return underlayOf(link, addrs[0].addr), true, nil
		}
	}
	return Underlay{}, false, nil
}

// underlays returns every global address that could be the underlay.
func (c *conn) underlays() ([]Underlay, error) {
	addrs, err := c.globalAddrs(nil)
	if err != nil {
		return nil, err
	}
	var all []Underlay
	for _, a := range addrs {
		link, err := c.LinkByIndex(a.index)
		if err != nil {
			continue // the link disappeared after the dump
		}
		if !foreign(link) {
			all = append(all, underlayOf(link, a.addr))
		}
	}
	return all, nil
}

// foreign reports whether an interface leads to containers instead of other hosts.
func foreign(link netlink.Link) bool {
	name := link.Attrs().Name
	return strings.HasPrefix(name, GatewayPrefix) || name == "docker0" || name == "docker_gwbridge" ||
		(strings.HasPrefix(name, "br-") && len(name) == len("br-")+12 && link.Type() == "bridge") // Docker's own networks: br- and 12 digits of their id
}

// global is an address that is valid beyond this host.
type global struct {
	index int
	addr  netip.Addr
}

// globalAddrs returns the global primary IPv4 addresses of a link, or of all links if
// link is nil.
func (c *conn) globalAddrs(link netlink.Link) ([]global, error) {
	addrs, err := c.addrsOf(link)
	if err != nil {
		return nil, err
	}
	var all []global
	for _, a := range addrs {
		p := prefixOf(a.IPNet)
		if p.IsValid() && a.Scope == int(netlink.SCOPE_UNIVERSE) && p.Addr().IsGlobalUnicast() && a.Flags&unix.IFA_F_SECONDARY == 0 {
			all = append(all, global{index: a.LinkIndex, addr: p.Addr()})
		}
	}
	return all, nil
}

// addrsOf returns the IPv4 addresses of a link, or of all links if link is nil.
func (c *conn) addrsOf(link netlink.Link) ([]netlink.Addr, error) {
	addrs, err := dump(func() ([]netlink.Addr, error) { return c.AddrList(link, netlink.FAMILY_V4) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	return addrs, nil
}

func underlayOf(link netlink.Link, addr netip.Addr) Underlay {
	return Underlay{Interface: link.Attrs().Name, Addr: addr, MTU: link.Attrs().MTU}
}

// Routes returns the destinations of the IPv4 routes in the main table, sorted and
// without duplicates. It omits default routes and the routes of our own gateway ports. A
// new network must not overlap the rest.
func (l *Links) Routes(ctx context.Context) ([]netip.Prefix, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c, err := l.acquire()
	if err != nil {
		return nil, err
	}
	defer l.release(c)
	routes, err := c.routes()
	if err != nil {
		return nil, err
	}
	ours := map[int]bool{}
	isOurs := func(index int) bool {
		is, known := ours[index]
		if !known {
			link, err := c.LinkByIndex(index)
			is = err == nil && strings.HasPrefix(link.Attrs().Name, GatewayPrefix)
			ours[index] = is
		}
		return is
	}
	var all []netip.Prefix
	for _, r := range routes {
		p := prefixOf(r.Dst)
		if isDefault(r) || !p.IsValid() || slices.ContainsFunc(hops(r), isOurs) {
			continue
		}
		all = append(all, p.Masked())
	}
	slices.SortFunc(all, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	return slices.Compact(all), nil
}

// hops returns the indexes of the links that a route uses. A blackhole route has none.
func hops(r netlink.Route) []int {
	if r.LinkIndex != 0 {
		return []int{r.LinkIndex}
	}
	var all []int
	for _, hop := range r.MultiPath {
		if hop.LinkIndex != 0 {
			all = append(all, hop.LinkIndex)
		}
	}
	return all
}
