package link

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Stale describes the connections that the kernel's connection tracking must not
// continue. The packet filter sees only the first packet of a connection, and a UDP
// connection lasts as long as somebody sends.
type Stale struct {
	// Addr is the address of a removed endpoint. It selects every connection from it, to
	// it, or translated to it. The zero Addr selects none.
	Addr netip.Addr
	// UDP are ports of this host that now lead to Keep, on one address or, with 0.0.0.0,
	// on all. They select every connection to them that leads elsewhere.
	UDP  []netip.AddrPort
	Keep netip.Addr
}

// ForgetConnections removes stale connections from the kernel's table. A sender that
// continues starts a new connection with its next packet. The error wraps
// errors.ErrUnsupported if the kernel lacks nf_conntrack_netlink.
func (l *Links) ForgetConnections(ctx context.Context, s Stale) error {
	if !s.Addr.IsValid() && len(s.UDP) == 0 {
		return nil
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
			ip, _ := netip.AddrFromSlice(a.IP)
			f.host = append(f.host, ip.Unmap())
		}
	}
	err := l.forgetting.do(ctx, f)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) { // nfnetlink has no such subsystem
		err = fmt.Errorf("%w: the kernel lacks nf_conntrack_netlink (%w)", errors.ErrUnsupported, err)
	}
	if err != nil {
		return fmt.Errorf("forget connections: %w", err)
	}
	return nil
}

// staleFilter selects the connections that a Stale describes.
type staleFilter struct {
	Stale
	host []netip.Addr // this host's addresses
}

// queries returns queries that together cover every connection that can match. Addr
// answers both the connections to it and those translated to it, so it is the source of
// the reply direction.
func (f *staleFilter) queries() []tupleQuery {
	var all []tupleQuery
	if f.Addr.IsValid() {
		for _, reply := range []bool{false, true} {
			all = append(all, tupleQuery{reply: reply, flags: filterSource, tuple: tuple{src: f.Addr}})
		}
	}
	for _, p := range f.UDP {
		q := tupleQuery{flags: filterProto | filterDestPort, tuple: tuple{proto: unix.IPPROTO_UDP, dport: p.Port()}}
		if !p.Addr().IsUnspecified() {
			q.flags |= filterDestination
			q.tuple.dst = p.Addr()
		}
		all = append(all, q)
	}
	return all
}

func (f *staleFilter) matches(orig, reply tuple) bool {
	to, from := orig.dst, reply.src // from is the address that answers
	if f.Addr.IsValid() && slices.Contains([]netip.Addr{to, from, orig.src, reply.dst}, f.Addr) {
		return true
	}
	if orig.proto != unix.IPPROTO_UDP || from == f.Keep || !to.IsLoopback() && !slices.Contains(f.host, to) {
		return false
	}
	return slices.ContainsFunc(f.UDP, func(p netip.AddrPort) bool {
		return p.Port() == orig.dport && (p.Addr().IsUnspecified() || p.Addr() == to)
	})
}
