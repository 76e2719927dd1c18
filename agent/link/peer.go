package link

import (
	"fmt"

	"github.com/vishvananda/netlink"
)

// Peer is the container end of a veth pair, in the container's namespace.
type Peer struct {
	Name string
	MAC  string
}

// Peer returns the peer of a host end in a container's namespace, whatever its name is
// there. It returns ErrNotFound if the peer is not in that namespace.
func (l *Links) Peer(host, nsPath string) (Peer, error) {
	var p Peer
	err := l.withPeer(host, nsPath, func(_ *conn, peer netlink.Link) error {
		p = Peer{Name: peer.Attrs().Name, MAC: peer.Attrs().HardwareAddr.String()}
		return nil
	})
	return p, err
}

// withPeer calls f with the peer of a host end and a connection to the peer's namespace.
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
