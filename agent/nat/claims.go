package nat

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// ErrNotHere means that the address of a published port is not an address of this host.
var ErrNotHere = errors.New("not an address of this host")

// PortTakenError reports who holds a port.
type PortTakenError struct {
	Port  Port
	Owner string // endpoint that holds the port; empty if a program holds it

	// PID and Program identify the program, if known.
	PID     int
	Program string
}

func (e *PortTakenError) Error() string {
	return fmt.Sprintf("port %s is taken by %s", e.Port, cmp.Or(e.Owner, e.Program, "another program"))
}

// Claims holds the published ports of this host. A bound socket that is never used holds
// each port. So no endpoint and no program can take a port that is taken. The kernel
// chooses a free port where any will do. The sockets close with the process.
type Claims struct {
	holder func(p Port) (pid int, program string) // finds who holds a port; slow

	mu      sync.Mutex
	byOwner map[string][]claim
}

type claim struct {
	asked, port Port // port is asked, with the chosen number if that has 0
	*socket
}

// socket is a bound socket. Several owners may share it.
type socket struct {
	fd     int
	owners int
}

// letGo drops one claim and closes the socket after the last one.
func (s *socket) letGo() {
	if s.owners--; s.owners == 0 {
		_ = unix.Close(s.fd) // nothing was sent
	}
}

// NewClaims returns an empty Claims.
func NewClaims() *Claims { return &Claims{holder: holder, byOwner: map[string][]claim{}} }

// Claim replaces the ports of owner with the given ones. It returns them in the same
// order, with the numbers that the kernel chose. Owner keeps ports that it already holds,
// and their chosen numbers stay. If Claim fails, it changes nothing. It returns a
// *PortTakenError, ErrNotHere or a system error. The identical port of an owner in with
// is no conflict: both then hold it, and it is free when neither does.
func (c *Claims) Claim(owner string, ports []Port, with ...string) ([]Port, error) {
	got, err := c.claim(owner, ports, with)
	if taken, ok := errors.AsType[*PortTakenError](err); ok && taken.Owner == "" {
		taken.PID, taken.Program = c.holder(taken.Port) // outside the lock, because it is slow
	}
	return got, err
}

func (c *Claims) claim(owner string, ports []Port, with []string) ([]Port, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ports = slices.Clone(ports)
	for i, p := range ports {
		ports[i].HostIP = p.hostIP()
	}
	left := c.byOwner[owner] // claims that are not reused
	now := make([]claim, len(ports))
	fresh := make([]bool, len(ports))
	give := func(err error) ([]Port, error) {
		for i := range now {
			if fresh[i] {
				now[i].letGo()
			}
		}
		return nil, err
	}
	// Ports with a number go first, because the kernel could choose that number for
	// another port.
	for _, any := range []bool{false, true} {
		for i, p := range ports {
			if (p.HostPort == 0) != any {
				continue
			}
			if at := indexOf(left, p); at >= 0 {
				now[i] = left[at]
				left = slices.Delete(slices.Clone(left), at, at+1)
				continue
			}
			if err := c.free(owner, ports, i, with); err != nil {
				return give(err)
			}
			if shared := c.held(p, with); shared != nil {
				now[i], fresh[i] = claim{asked: p, port: p, socket: shared}, true
				shared.owners++
				continue
			}
			var err error
			if now[i], err = bind(p); err != nil {
				return give(err)
			}
			fresh[i] = true
		}
	}
	for _, old := range left {
		old.letGo()
	}
	if c.byOwner[owner] = now; len(now) == 0 {
		delete(c.byOwner, owner)
	}
	got := make([]Port, len(now))
	for i, n := range now {
		got[i] = n.port
	}
	return got, nil
}

// Release releases all ports of owner, if it has any.
func (c *Claims) Release(owner string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, held := range c.byOwner[owner] {
		held.letGo()
	}
	delete(c.byOwner, owner)
}

// Close releases all ports.
func (c *Claims) Close() {
	c.mu.Lock()
	owners := slices.Collect(maps.Keys(c.byOwner))
	c.mu.Unlock()
	for _, owner := range owners {
		c.Release(owner)
	}
}

// held returns the socket with which one of the owners holds a port, or nil if none does.
func (c *Claims) held(p Port, owners []string) *socket {
	for _, owner := range owners {
		for _, q := range c.byOwner[owner] {
			if p.HostPort != 0 && q.port == p {
				return q.socket
			}
		}
	}
	return nil
}

// free returns a *PortTakenError if another owner has a clashing port, or if owner needs
// it twice. Owners in with may have the identical port.
func (c *Claims) free(owner string, own []Port, at int, with []string) error {
	p := own[at]
	if err := p.check(); err != nil {
		return err
	}
	for i, q := range own {
		if i != at && p.Clashes(q) {
			return &PortTakenError{Port: p, Owner: owner}
		}
	}
	for other, claims := range c.byOwner {
		for _, q := range claims {
			if other != owner && p.Clashes(q.port) && (p != q.port || !slices.Contains(with, other)) {
				return &PortTakenError{Port: p, Owner: other}
			}
		}
	}
	return nil
}

// indexOf returns the index of the claim for a port, compared with the port as asked or
// as given, or -1.
func indexOf(claims []claim, p Port) int {
	return slices.IndexFunc(claims, func(c claim) bool { return c.asked == p || c.port == p })
}

// bind claims a port with a socket. Without SO_REUSEADDR, a bound socket excludes all
// others, whether or not it listens. But bind then fails if connections of a program that
// ended are still in TIME_WAIT on the port. bind then uses SO_REUSEADDR and listens,
// which also excludes others.
func bind(p Port) (claim, error) {
	c, err := bindOnce(p, false)
	if errors.Is(err, unix.EADDRINUSE) && p.Proto == "tcp" && p.HostPort != 0 {
		c, err = bindOnce(p, true)
	}
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return c, &PortTakenError{Port: p}
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return c, fmt.Errorf("publish on %s: %w", p.hostIP(), ErrNotHere)
	case err != nil:
		return c, fmt.Errorf("claim port %s: %w", p, err)
	}
	return c, nil
}

func bindOnce(p Port, lingering bool) (claim, error) {
	kind := unix.SOCK_STREAM
	if p.Proto == "udp" {
		kind = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return claim{}, err
	}
	c := claim{asked: p, port: p, socket: &socket{fd: fd, owners: 1}}
	if err := c.take(lingering); err != nil {
		_ = unix.Close(fd) // nothing was sent
		return claim{}, err
	}
	return c, nil
}

func (c *claim) take(lingering bool) error {
	// Discard all packets that still reach the socket, with one instruction of classic
	// BPF that keeps 0 bytes of each.
	nothing := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K}}
	err := unix.SetsockoptSockFprog(c.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &nothing[0]})
	if err != nil {
		return err
	}
	if lingering {
		if err := unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return err
		}
	}
	if err := unix.Bind(c.fd, &unix.SockaddrInet4{Port: int(c.port.HostPort), Addr: c.port.hostIP().As4()}); err != nil {
		return err
	}
	if lingering {
		if err := unix.Listen(c.fd, 1); err != nil {
			return err
		}
	}
	at, err := unix.Getsockname(c.fd)
	if err != nil {
		return err
	}
	in, ok := at.(*unix.SockaddrInet4)
	if !ok {
		return fmt.Errorf("bound to %T", at)
	}
	c.port.HostPort = uint16(in.Port)
	return nil
}
