package link

import (
	"fmt"

	"github.com/vishvananda/netlink"
)

// Peer is the other end of a host's end, in a container's namespace.
type Peer struct {
	Name string
	MAC  string
}

// Peer looks at the other end of a host's end, in a container's namespace, whatever
// it is called there. The error is ErrNotFound where it is not in that namespace.
func (l *Links) Peer(host, nsPath string) (Peer, error) {
	var p Peer
	err := l.withPeer(host, nsPath, func(_ *conn, peer netlink.Link) error {
		p = Peer{Name: peer.Attrs().Name, MAC: peer.Attrs().HardwareAddr.String()}
		return nil
	})
	return p, err
}

// withPeer calls f with the other end of a host's end, and a connection in the
// namespace that has it.
func (l *Links) withPeer(host, nsPath string, f func(c *conn, peer netlink.Link) error) error {
	outside, err := l.acquire()
	if err != nil {
		return err
	}
	end, err := outside.mustFind(host)
	l.release(outside)
	if err != nil {
		return err
	}
	ns, own, err := openContainer(nsPath)
	if err != nil {
		return err
	}
	defer ns.Close()
	defer own.Close()
	c, err := ns.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	peer, err := c.LinkByIndex(end.Attrs().ParentIndex)
	if err != nil {
		return fmt.Errorf("peer of %q in %q: %w", host, nsPath, err)
	}
	if peer.Type() != "veth" || peer.Attrs().ParentIndex != end.Attrs().Index {
		return fmt.Errorf("peer of %q in %q: %w", host, nsPath, ErrNotFound)
	}
	return f(c, peer)
}
