package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Stale describes what the kernel's connection tracking must not go on with:
// the packet filter is asked for a connection's first packet only, and one over
// UDP lasts as long as somebody sends.
type Stale struct {
	// Addr is an endpoint's that is gone: every connection from it, to it, or
	// led to it. The zero Addr: of none.
	Addr netip.Addr
	// UDP are ports of this host, on one of its addresses or, with 0.0.0.0, on
	// all, that lead to Keep now: every connection to them that leads elsewhere.
	UDP  []netip.AddrPort
	Keep netip.Addr
}

// ForgetConnections removes stale connections from the kernel's table. What
// still sends begins a new one with its next packet. A kernel that cannot be
// asked (no nf_conntrack_netlink) gives errors.ErrUnsupported.
func (l *Links) ForgetConnections(ctx context.Context, s Stale) error {
	if !s.Addr.IsValid() && len(s.UDP) == 0 {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	f := &staleFilter{Stale: s}
	if len(s.UDP) > 0 {
		c, err := l.acquire()
		if err != nil {
			return err
		}
		defer l.release(c)
		addrs, err := dump(func() ([]netlink.Addr, error) { return c.AddrList(nil, netlink.FAMILY_V4) })
		if err != nil {
			return fmt.Errorf("forget connections: list addresses: %w", err)
		}
		for _, a := range addrs {
			f.host = append(f.host, unmapped(a.IP))
		}
	}
	h, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("forget connections: open netlink: %w", err)
	}
	defer h.Close()
	// An interrupted dump has deleted what it showed: again for the rest.
	for range dumpTries {
		if _, err = h.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, f); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) { // nfnetlink knows no such subsystem
		err = fmt.Errorf("%w: the kernel lacks nf_conntrack_netlink (%w)", errors.ErrUnsupported, err)
	}
	if err != nil {
		return fmt.Errorf("forget connections: %w", err)
	}
	return nil
}

// staleFilter picks the connections that a Stale describes.
type staleFilter struct {
	Stale
	host []netip.Addr // this host's addresses
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (f *staleFilter) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	to, from := unmapped(flow.Forward.DstIP), unmapped(flow.Reverse.SrcIP) // from: who answers
	if f.Addr.IsValid() && slices.Contains([]netip.Addr{to, from, unmapped(flow.Forward.SrcIP), unmapped(flow.Reverse.DstIP)}, f.Addr) {
		return true
	}
	if flow.Forward.Protocol != unix.IPPROTO_UDP || from == f.Keep || !to.IsLoopback() && !slices.Contains(f.host, to) {
		return false
	}
	return slices.ContainsFunc(f.UDP, func(p netip.AddrPort) bool {
		return p.Port() == flow.Forward.DstPort && (p.Addr().IsUnspecified() || p.Addr() == to)
	})
}

func unmapped(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}
