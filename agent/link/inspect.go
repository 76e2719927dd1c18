package link

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// State is the kernel's state of a host end.
type State struct {
	Exists    bool
	Up        bool
	MTU       int    // bytes
	MAC       string // of the host's end
	PeerMoved bool   // the peer is in another namespace
}

// Inspect returns the state of a host end. If there is none, it returns a zero State and
// no error.
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

// Exists reports whether a host end exists. The kernel deletes both ends of a veth pair
// together, so the container end then exists too.
func (l *Links) Exists(host string) (bool, error) {
	s, err := l.Inspect(host)
	return s.Exists, err
}

// PeerIn reports whether the peer of a host end is in the namespace at a path. It returns
// false if the namespace or the host end does not exist.
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
		return false, nil // a missing namespace holds no link
	}
	defer ns.Close()
	id, err := c.GetNetNsIdByFd(ns.fd())
	return err == nil && id >= 0 && id == end.Attrs().NetNsID, nil
}

// HostVeths returns the sorted names of the host ends of all endpoints. Callers use it to
// find those without an owner.
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

// SetMTU sets the MTU, in bytes, of a host end or a gateway port.
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

// SetPeerMTU sets the MTU, in bytes, of the peer of a host end in a container's
// namespace, whatever its name is there. Docker chooses the name when it moves the link
// itself. Use PeerIn to check that the peer is there.
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

// mustFind is like byName but returns ErrNotFound if the link does not exist.
func (c *conn) mustFind(name string) (netlink.Link, error) {
	link, err := c.byName(name)
	if err == nil && link == nil {
		err = fmt.Errorf("interface %q: %w", name, ErrNotFound)
	}
	return link, err
}
