// Package link makes all netlink and network namespace calls of the agent. It creates the
// veth pair of an endpoint and moves it into the container's namespace. It sets
// addresses, routes, MTUs and offloads there and on gateway ports. It reports the links
// and routes of the host that the agent needs. It never talks to Open vSwitch and never
// changes iptables. It keeps no state of its own: every call names the wanted state and
// compares it with the kernel's.
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
	// ErrNotFound means that a required link does not exist.
	ErrNotFound = errors.New("no such interface")
	// ErrExists means that an interface that is not the endpoint's already has the name.
	ErrExists = errors.New("an interface of that name is already there")
	// ErrNotNamespace means that a path is not a network namespace.
	ErrNotNamespace = errors.New("not a network namespace")
	// ErrNotOwner means that the user who names a namespace does not own it.
	ErrNotOwner = errors.New("the network namespace belongs to another user")
	// ErrHostNamespace means that a path is the namespace that the agent runs in.
	ErrHostNamespace = errors.New("this is the host's own network namespace")
)

// maxIdle limits the netlink connections that stay open between calls.
const maxIdle = 8

// Links changes links in the process's own network namespace and in the namespaces whose
// paths it receives. It is safe for concurrent use.
type Links struct {
	log     *slog.Logger
	idle    chan *conn
	ingress ingress

	forgetting forgetting
}

// New returns a Links. Close releases the sockets that it holds.
func New(logger *slog.Logger) *Links {
	return &Links{log: logger, idle: make(chan *conn, maxIdle)}
}

// Close completes the removals that DeleteVeth postponed and closes the idle netlink
// sockets. Links stays usable: later calls open new sockets.
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

// conn is a route netlink connection to one namespace. It serves one call at a time,
// because two calls on one socket would wait for each other's answers.
type conn struct {
	*netlink.Handle
	raw map[int]*nl.SocketHandle // for the messages that Handle has no method for
}

// acquire returns an idle connection or opens one.
func (l *Links) acquire() (*conn, error) {
	select {
	case c := <-l.idle:
		return c, nil
	default:
		return dial(netns.None())
	}
}

// release keeps a connection for the next call, or closes it if maxIdle are idle.
func (l *Links) release(c *conn) {
	select {
	case l.idle <- c:
	default:
		c.Close()
	}
}

// dial opens a connection to a namespace; netns.None means the current one.
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

func (c *conn) Close() {
	c.Handle.Close()
	for _, s := range c.raw {
		s.Close()
	}
}

// byName returns the link with exactly this name, or nil if there is none.
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

// move moves a link into another namespace and renames it in one message. The link
// therefore never appears there under its old name unless the new name is taken.
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

// dumpTries limits how often dump repeats an interrupted dump. The kernel interrupts a
// dump when the table changes meanwhile. On a host that starts many containers at once,
// this happens a few times in a row.
const dumpTries = 10

// dump repeats a netlink dump while the kernel interrupts it.
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

// ref returns a Link that has only an index, for calls that require a Link.
func ref(index int) netlink.Link {
	attrs := netlink.NewLinkAttrs()
	attrs.Index = index
	return &netlink.Device{LinkAttrs: attrs}
}
