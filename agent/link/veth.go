package link

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Veth describes the pair of an endpoint.
type Veth struct {
	Host      string // name of the host's end, at most 15 bytes
	Peer      string // temporary name of the container's end, while it is in the host's namespace
	MAC       string // of the container's end: 02:42:...
	MTU       int    // bytes, both ends
	Userspace bool   // the switch forwards in user space (datapath netdev)

	// NetNS is the path of the container's namespace, when it is known before
	// the pair is made: the container's end is born there under the name
	// IfName, down and without an address. Moving it there later costs 20
	// times as much: the kernel waits for all users of the device. Both empty:
	// it is born on the host as Peer.
	NetNS  string
	IfName string
}

// txQueueLen is what the kernel gives an Ethernet device (DEFAULT_TX_QUEUE_LEN).
const txQueueLen = 1000

// pairing is one call of EnsureVeth.
type pairing struct {
	Veth
	mac      net.HardwareAddr
	host     *conn
	peerName string     // where the peer is wanted
	ns, own  *namespace // the container's and the host's; nil without NetNS
}

// EnsureVeth makes the pair, or mends one that is there. After it the host's
// end is up, and the peer is where it is wanted: in v.NetNS, or else in the
// host's namespace. A pair whose peer is anywhere else is deleted and made
// anew; so a container that runs again in a new namespace gets a new pair. An
// IfName that is taken by another interface gives ErrExists.
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
	// Making is tried first: nearly always there is nothing yet, and the
	// kernel says so more cheaply than a lookup does. What is in the way is
	// mended or removed, and then making is tried once more.
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

// makeVeth makes the pair; a failure leaves nothing behind.
func (l *Links) makeVeth(p pairing) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.TxQLen = p.Host, p.MTU, txQueueLen
	// One queue, which is all that is used of a pair. Unless it is said the kernel
	// makes one a CPU, sets them to one, and waits for all CPUs after each end while
	// everybody else waits for the lock of all interfaces.
	attrs.NumTxQueues, attrs.NumRxQueues = 1, 1
	pair := netlink.NewVeth(attrs) // the peer's are the same
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

// prepareEnds sets what the message that makes the pair cannot say.
func (l *Links) prepareEnds(p pairing, index int) error {
	// Before the end comes up.
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

// mendVeth looks at what is in the way of making the pair. Either it is the
// pair, and is mended (done), or it is removed if it is ours.
func (l *Links) mendVeth(p pairing) (done bool, err error) {
	place := p.host // where the peer is wanted
	nsid := -1      // the kernel's word for "in the same namespace"
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
	case host == nil && peer == nil: // gone meanwhile
		return false, nil
	case host != nil && peer != nil && host.Attrs().ParentIndex == peer.Attrs().Index && host.Attrs().NetNsID == nsid:
		return true, l.mendEnds(p, host, peer, place)
	case peer != nil && p.ns != nil:
		return false, fmt.Errorf("%q in %q: %w", p.peerName, p.NetNS, ErrExists)
	case host == nil: // half of something of ours that lost its name
		return false, l.deleteVeth(p.host, p.peerName)
	default:
		l.log.Info("remaking a veth pair whose peer is not where it is wanted", "port", p.Host)
		return false, l.deleteVeth(p.host, p.Host)
	}
}

// mendEnds puts right what differs from p on a pair that is there.
func (l *Links) mendEnds(p pairing, host, peer netlink.Link, place *conn) error {
	if err := p.host.mendLink(host, p.MTU, nil); err != nil {
		return err
	}
	if err := place.mendLink(peer, p.MTU, p.mac); err != nil {
		return err
	}
	if !p.Userspace { // after a change of the datapath; the chain would hide every packet from the switch
		if err := l.undeafen(p.Host); err != nil {
			return err
		}
	}
	return l.prepareEnds(p, host.Attrs().Index)
}

// mendLink gives a link its MTU and MAC where they differ; a zero value is
// not set.
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

// DeleteVeth removes the pair of a host's end, wherever its peer is, and the
// chain that kept the kernel from hearing it (that one within seconds, or
// with Close). A pair that is not there is success.
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
	// After the link: for no moment does the kernel hear the container.
	l.forget(host)
	return nil
}
