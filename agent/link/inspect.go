package link

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// State is what the kernel says of a host's end.
type State struct {
	Exists    bool
	Up        bool
	MTU       int    // bytes
	MAC       string // of the host's end
	PeerMoved bool   // the other end is in another namespace
}

// Inspect looks at a host's end. One that is not there is no error.
func (l *Links) Inspect(host string) (State, error) {
	c, err := l.acquire()
	if err != nil {
		return State{}, err
	}
	defer l.release(c)
	link, err := c.byName(host)
	if err != nil || link == nil {
		return State{}, err
	}
	attrs := link.Attrs()
	return State{
		Exists: true, Up: attrs.RawFlags&unix.IFF_UP != 0, MTU: attrs.MTU,
		MAC: attrs.HardwareAddr.String(), PeerMoved: attrs.NetNsID >= 0,
	}, nil
}

// Exists tells whether a host's end is there. A veth pair dies as one: while
// its host's end lives, the container's end lives too.
func (l *Links) Exists(host string) (bool, error) {
	s, err := l.Inspect(host)
	return s.Exists, err
}

// PeerIn tells whether the other end of a host's end is in the namespace at a
// path. A namespace that is gone, or a host's end that is, is a no.
func (l *Links) PeerIn(host, nsPath string) (bool, error) {
	c, err := l.acquire()
	if err != nil {
		return false, err
	}
	defer l.release(c)
	end, err := c.byName(host)
	if err != nil || end == nil {
		return false, err
	}
	ns, err := openNamespace(nsPath)
	if err != nil {
		return false, nil // a namespace that is gone holds nothing
	}
	defer ns.Close()
	id, err := c.GetNetNsIdByFd(ns.fd())
	return err == nil && id >= 0 && id == end.Attrs().NetNsID, nil
}

// HostVeths lists the host's ends of all endpoints, sorted, for finding those
// that nobody owns any more.
func (l *Links) HostVeths() ([]string, error) {
	c, err := l.acquire()
	if err != nil {
		return nil, err
	}
	defer l.release(c)
	links, err := dump(c.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	var names []string
	for _, link := range links {
		if name := link.Attrs().Name; strings.HasPrefix(name, HostPrefix) && link.Type() == "veth" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// SetMTU sets the MTU, in bytes, of a link in the host's namespace: a host's
// end or a gateway port.
func (l *Links) SetMTU(ctx context.Context, name string, mtu int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c, err := l.acquire()
	if err != nil {
		return err
	}
	defer l.release(c)
	return c.setMTU(name, mtu)
}

// SetPeerMTU sets the MTU, in bytes, of the other end of a host's end, in a
// container's namespace, whatever it is called there: Docker chooses the name of
// what it moves itself. PeerIn says whether it is there.
func (l *Links) SetPeerMTU(ctx context.Context, host, nsPath string, mtu int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return l.withPeer(host, nsPath, func(c *conn, peer netlink.Link) error { return c.mendLink(peer, mtu, nil) })
}

func (c *conn) setMTU(name string, mtu int) error {
	link, err := c.mustFind(name)
	if err != nil {
		return err
	}
	return c.mendLink(link, mtu, nil)
}

// mustFind is byName where the link has to be there.
func (c *conn) mustFind(name string) (netlink.Link, error) {
	link, err := c.byName(name)
	if err == nil && link == nil {
		err = fmt.Errorf("interface %q: %w", name, ErrNotFound)
	}
	return link, err
}
