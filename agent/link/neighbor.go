package link

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
)

const (
	// probePort is the destination port of a probe that only makes the kernel resolve its
	// next hop: discard, RFC 863.
	probePort = 9
	// probeWait limits the wait for a neighbour's answer. On one segment the answer takes
	// less than a millisecond.
	probeWait = 300 * time.Millisecond
)

// Neighbor is the next hop on the route to an address.
type Neighbor struct {
	Interface string // the outgoing interface
	Addr      netip.Addr
	MAC       string
}

// Neighbor returns the next hop to addr. If the kernel does not know its MAC address,
// Neighbor makes it resolve the address. It returns ErrNotFound if nobody answers.
func (l *Links) Neighbor(ctx context.Context, addr netip.Addr) (Neighbor, error) {
	c, err := l.acquire()
	if err != nil {
		return Neighbor{}, err
	}
	defer l.release(c)
	routes, err := c.RouteGet(addr.AsSlice())
	if err != nil || len(routes) == 0 {
		return Neighbor{}, fmt.Errorf("route to %s: %w", addr, err)
	}
	hop := addr
	if gw, ok := netip.AddrFromSlice(routes[0].Gw); ok {
		hop = gw.Unmap()
	}
	out, err := c.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return Neighbor{}, fmt.Errorf("route to %s: %w", addr, err)
	}
	n := Neighbor{Interface: out.Attrs().Name, Addr: hop}
	if n.MAC, err = c.resolved(out.Attrs().Index, hop); err != nil || n.MAC != "" {
		return n, err
	}
	if err := probe(ctx, addr); err != nil {
		return n, err
	}
	tick := time.NewTicker(probeWait / 30)
	defer tick.Stop()
	over := time.NewTimer(probeWait)
	defer over.Stop()
	for {
		select {
		case <-ctx.Done():
			return n, ctx.Err()
		case <-over.C:
			return n, fmt.Errorf("next hop %s to %s does not answer: %w", hop, addr, ErrNotFound)
		case <-tick.C:
		}
		if n.MAC, err = c.resolved(out.Attrs().Index, hop); err != nil || n.MAC != "" {
			return n, err
		}
	}
}

// resolved returns the MAC address that the kernel has for a neighbour, or "" if none.
func (c *conn) resolved(index int, hop netip.Addr) (string, error) {
	neighbors, err := dump(func() ([]netlink.Neigh, error) { return c.NeighList(index, netlink.FAMILY_V4) })
	if err != nil {
		return "", fmt.Errorf("list neighbours: %w", err)
	}
	const known = netlink.NUD_REACHABLE | netlink.NUD_STALE | netlink.NUD_DELAY | netlink.NUD_PROBE | netlink.NUD_PERMANENT
	for _, n := range neighbors {
		if n.IP.Equal(hop.AsSlice()) && n.State&known != 0 && len(n.HardwareAddr) == 6 {
			return n.HardwareAddr.String(), nil
		}
	}
	return "", nil
}

// probe sends an empty datagram, so that the kernel sends ARP first.
func probe(ctx context.Context, addr netip.Addr) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "udp4", netip.AddrPortFrom(addr, probePort).String())
	if err != nil {
		return fmt.Errorf("probe %s: %w", addr, err)
	}
	_, err = conn.Write(nil)
	_ = conn.Close() // nothing is buffered
	if err != nil {
		return fmt.Errorf("probe %s: %w", addr, err)
	}
	return nil
}
