package link

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Veth describes the veth pair of an endpoint.
type Veth struct {
	Host      string // name of the host end, at most 15 bytes
	Peer      string // temporary name of the container end while it is in the host's namespace
	MAC       string // of the container end: 02:42:...
	MTU       int    // bytes, both ends
	Userspace bool   // the switch forwards in userspace (datapath netdev)

	// NetNS is the path of the container's namespace, if it is known in advance.
	// EnsureVeth then creates the container end there under the name IfName, down and
	// without an address. Moving it there later takes 20 times as long, because the
	// kernel waits for all users of the device. If both are empty, EnsureVeth creates the
	// container end on the host as Peer.
	NetNS  string
	IfName string
}

// txQueueLen is the kernel's default for an Ethernet device (DEFAULT_TX_QUEUE_LEN).
const txQueueLen = 1000

// pairing holds the parameters of one EnsureVeth call.
type pairing struct {
	Veth
	mac      net.HardwareAddr
	host     *conn
	peerName string     // the wanted name of the peer
	ns, own  *namespace // the namespaces of the container and the host; nil without NetNS
}

// EnsureVeth creates the pair or repairs an existing one. Afterwards the host end is up,
// and the peer is in v.NetNS or, if that is empty, in the host's namespace. EnsureVeth
// replaces a pair whose peer is elsewhere, so a container that restarts in a new
// namespace gets a new pair. It returns ErrExists if another interface has the name
// IfName.
func (l *Links) EnsureVeth(ctx context.Context, v Veth) error {
	if err := l.ensureVeth(ctx, v); err != nil {
		return fmt.Errorf("make veth %q: %w", v.Host, err)
	}
	return nil
}

func (l *Links) ensureVeth(ctx context.Context, v Veth) error {
	p := pairing{Veth: v, peerName: v.Peer}
	var err error
	if p.mac, err = net.ParseMAC(v.MAC); err != nil {
		return err
	}
	if v.NetNS != "" {
		p.peerName = v.IfName
		if p.ns, p.own, err = openContainer(v.NetNS); err != nil {
			return err
		}
		defer p.ns.Close()
		defer p.own.Close()
	}
	if err := errors.Join(checkName(v.Host), checkName(p.peerName)); err != nil {
		return err
	}
	if p.host, err = l.acquire(); err != nil {
		return err
	}
	defer l.release(p.host)
	// Create first: usually nothing exists yet, and the failed request costs less than a
	// lookup. If something is in the way, repair or remove it and create once more.
	for range 2 {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err = l.makeVeth(p); !errors.Is(err, unix.EEXIST) {
			return err
		}
		if done, err := l.mendVeth(p); err != nil || done {
			return err
		}
	}
	return err
}

// makeVeth creates the pair. If it fails, it leaves nothing behind.
func (l *Links) makeVeth(p pairing) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.TxQLen = p.Host, p.MTU, txQueueLen
	// A pair uses only one queue. Without these fields the kernel creates one per CPU and
	// reduces them to one. It then waits for all CPUs after each end, while everyone else
	// waits for the lock of all interfaces.
	attrs.NumTxQueues, attrs.NumRxQueues = 1, 1
	pair := netlink.NewVeth(attrs) // the peer gets the same attributes
	pair.PeerName, pair.PeerHardwareAddr = p.peerName, p.mac
	if p.ns != nil {
		pair.PeerNamespace = netlink.NsFd(p.ns.fd())
	}
	if err := p.host.LinkAdd(pair); err != nil {
		return err
	}
	if err := l.prepareEnds(p, pair.Index); err != nil {
		return errors.Join(err, l.deleteVeth(p.host, p.Host))
	}
	return nil
}

// prepareEnds sets what the message that creates the pair cannot set.
func (l *Links) prepareEnds(p pairing, index int) error {
	// This must precede setting the end up.
	if err := quietSysctls(p.Host); err != nil {
		return err
	}
	if p.Userspace {
		if err := disableTxChecksum(p.ns, p.own, p.peerName); err != nil {
			return err
		}
		l.deafen(p.Host)
	}
	if err := p.host.LinkSetUp(ref(index)); err != nil {
		return fmt.Errorf("set up: %w", err)
	}
	return nil
}

// mendVeth handles what is in the way of creating the pair. If it is the pair, mendVeth
// repairs it and returns done. Otherwise it removes it if it is ours.
func (l *Links) mendVeth(p pairing) (done bool, err error) {
	place := p.host // the wanted place of the peer
	nsid := -1      // the kernel's id for "the same namespace"
	if p.ns != nil {
		if place, err = p.ns.dial(); err != nil {
			return false, err
		}
		defer place.Close()
		if nsid, err = p.host.GetNetNsIdByFd(p.ns.fd()); err != nil {
			return false, fmt.Errorf("identify %q: %w", p.NetNS, err)
		}
	}
	host, err := p.host.byName(p.Host)
	if err != nil {
		return false, err
	}
	peer, err := place.byName(p.peerName)
	if err != nil {
		return false, err
	}
	for _, end := range []netlink.Link{host, peer} {
		if end != nil && end.Type() != "veth" {
			return false, fmt.Errorf("%q is a %s: %w", end.Attrs().Name, end.Type(), ErrExists)
		}
	}
	switch {
	case host == nil && peer == nil: // removed meanwhile
		return false, nil
	case host != nil && peer != nil && host.Attrs().ParentIndex == peer.Attrs().Index && host.Attrs().NetNsID == nsid:
		return true, l.mendEnds(p, host, peer, place)
	case peer != nil && p.ns != nil:
		return false, fmt.Errorf("%q in %q: %w", p.peerName, p.NetNS, ErrExists)
	case host == nil: // a pair of ours whose host end has lost its name
		return false, l.deleteVeth(p.host, p.peerName)
	default:
		l.log.Info("remaking a veth pair whose peer is not where it is wanted", "port", p.Host)
		return false, l.deleteVeth(p.host, p.Host)
	}
}

// mendEnds repairs what differs from p on an existing pair.
func (l *Links) mendEnds(p pairing, host, peer netlink.Link, place *conn) error {
	if err := p.host.mendLink(host, p.MTU, nil); err != nil {
		return err
	}
	if err := place.mendLink(peer, p.MTU, p.mac); err != nil {
		return err
	}
	if !p.Userspace { // the datapath changed; the chain would hide every packet from the switch
		if err := l.undeafen(p.Host); err != nil {
			return err
		}
	}
	return l.prepareEnds(p, host.Attrs().Index)
}

// mendLink sets the MTU and MAC of a link if they differ. It ignores zero values.
func (c *conn) mendLink(link netlink.Link, mtu int, mac net.HardwareAddr) error {
	if mtu > 0 && link.Attrs().MTU != mtu {
		if err := c.LinkSetMTU(link, mtu); err != nil {
			return fmt.Errorf("set MTU %d of %q: %w", mtu, link.Attrs().Name, err)
		}
	}
	if len(mac) > 0 && link.Attrs().HardwareAddr.String() != mac.String() {
		if err := c.LinkSetHardwareAddr(link, mac); err != nil {
			return fmt.Errorf("set MAC %s of %q: %w", mac, link.Attrs().Name, err)
		}
	}
	return nil
}

// DeleteVeth removes the pair of a host end, wherever its peer is. It also removes the
// ingress chain of the host end, within seconds or with Close. It succeeds if the pair
// does not exist.
func (l *Links) DeleteVeth(ctx context.Context, host string) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("delete veth %q: %w", host, err)
	}
	c, err := l.acquire()
	if err != nil {
		return err
	}
	defer l.release(c)
	if err := l.deleteVeth(c, host); err != nil {
		return fmt.Errorf("delete veth %q: %w", host, err)
	}
	return nil
}

func (l *Links) deleteVeth(c *conn, host string) error {
	end, err := c.byName(host)
	if err != nil {
		return err
	}
	if end != nil {
		if end.Type() != "veth" {
			return fmt.Errorf("it is a %s, not a veth: %w", end.Type(), ErrExists)
		}
		if err := c.LinkDel(end); err != nil && !errors.Is(err, unix.ENODEV) {
			return err
		}
	}
	// After the link, so that the kernel never accepts the container's packets in
	// between.
	l.forget(host)
	return nil
}
