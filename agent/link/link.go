// Package link owns every netlink and network namespace call of the agent:
// the veth pair of an endpoint, its move into the container's namespace with
// addresses, routes, MTU and offloads, the gateway port's addresses, and what
// the agent has to know of the host's own links and routes. It never talks to
// Open vSwitch, never touches iptables, and keeps no state of its own: every
// call states the end and compares it with what the kernel has.
package link

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

var (
	// ErrNotFound means that a link that a call needs is not there.
	ErrNotFound = errors.New("no such interface")
	// ErrExists means that a name is taken by an interface that is not the
	// endpoint's.
	ErrExists = errors.New("an interface of that name is already there")
	// ErrNotNamespace means that a path is not a network namespace.
	ErrNotNamespace = errors.New("not a network namespace")
	// ErrNotOwner means that a namespace is not the user's who names it.
	ErrNotOwner = errors.New("the network namespace belongs to another user")
	// ErrHostNamespace means that a path is the namespace the agent runs in.
	ErrHostNamespace = errors.New("this is the host's own network namespace")
)

// maxIdle bounds the netlink connections that are kept open between calls.
const maxIdle = 8

// Links changes links in the network namespace that the process runs in, and
// in those that it is given a path of. It may be used by many goroutines.
type Links struct {
	log     *slog.Logger
	idle    chan *conn
	ingress ingress

	forgetting forgetting
}

// New makes a Links. Close gives back the sockets it holds.
func New(logger *slog.Logger) *Links {
	return &Links{log: logger, idle: make(chan *conn, maxIdle)}
}

// Close finishes what DeleteVeth put off, and closes the idle netlink sockets.
// Links stays usable: a later call opens new ones.
func (l *Links) Close() {
	l.sweep()
	for {
		select {
		case c := <-l.idle:
			c.Close()
		default:
			return
		}
	}
}

// conn is a route netlink connection to one namespace. A conn serves one call
// at a time: two calls on one socket would wait for each other's answers.
type conn struct {
	*netlink.Handle
	raw map[int]*nl.SocketHandle // for the messages that Handle has no method for
}

// acquire takes an idle connection, or opens one.
func (l *Links) acquire() (*conn, error) {
	select {
	case c := <-l.idle:
		return c, nil
	default:
		return dial(netns.None())
	}
}

// release puts a connection back for the next call.
func (l *Links) release(c *conn) {
	select {
	case l.idle <- c:
	default:
		c.Close()
	}
}

// dial opens a connection to a namespace; netns.None is the current one.
func dial(ns netns.NsHandle) (*conn, error) {
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	s, err := nl.GetNetlinkSocketAt(ns, netns.None(), unix.NETLINK_ROUTE)
	if err != nil {
		h.Close()
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	return &conn{Handle: h, raw: map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: s}}}, nil
}

// Close closes the connection's sockets.
func (c *conn) Close() {
	c.Handle.Close()
	for _, s := range c.raw {
		s.Close()
	}
}

// byName finds a link by its exact name; nil when there is none.
func (c *conn) byName(name string) (netlink.Link, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	link, err := c.LinkByName(name)
	if _, missing := errors.AsType[netlink.LinkNotFoundError](err); missing {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look up interface %q: %w", name, err)
	}
	if link.Attrs().Name != name { // an alternative name matched
		return nil, nil
	}
	return link, nil
}

// move sends a link into another namespace under a name, in one message: it
// never exists there under its old name unless the new one is taken.
func (c *conn) move(index, nsFD int, name string, mtu int) error {
	req := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	req.Sockets = c.raw
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(nsFD))))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	if mtu > 0 {
		req.AddData(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(mtu))))
	}
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// dumpTries bounds how often an interrupted dump is asked for again. A dump is
// interrupted when the table changed meanwhile; on a host that starts many
// containers at once that happens a few times in a row.
const dumpTries = 10

// dump repeats a netlink dump that was interrupted.
func dump[T any](list func() ([]T, error)) ([]T, error) {
	var err error
	for range dumpTries {
		var all []T
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return all, err
		}
	}
	return nil, err
}

// ref names a link by its index only, for the calls that want a Link.
func ref(index int) netlink.Link {
	attrs := netlink.NewLinkAttrs()
	attrs.Index = index
	return &netlink.Device{LinkAttrs: attrs}
}
