package firewall

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// ears listen on what packets are sent to, and remember whom they heard.
type ears struct {
	name func(string) string // of a namespace

	mu    sync.Mutex
	open  map[string]bool
	heard map[string]chan struct{} // by mark; closed when it was heard
}

func newEars(name func(string) string) *ears {
	return &ears{name: name, open: map[string]bool{}, heard: map[string]chan struct{}{}}
}

// reaches sends a packet until it is heard, or for as long as it is waited for.
func (e *ears) reaches(t *testing.T, p packet) bool {
	t.Helper()
	limit := patience
	if !p.want {
		limit = silence
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	mark := p.String()
	heard := make(chan struct{})
	e.mu.Lock()
	e.heard[mark] = heard
	e.mu.Unlock()
	if err := e.listen(t, p); err != nil {
		t.Fatalf("%s: listen: %v", p, err)
	}
	ns := ""
	if p.who != "self" {
		ns = e.name(p.who)
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		_, err := in(t, ns, p.uid, func() (struct{}, error) { return struct{}{}, p.send(ctx, mark) })
		if !p.udp && err == nil { // a connection is its own answer
			return true
		}
		if netErr := net.Error(nil); err != nil && !errors.As(err, &netErr) { // what a firewall makes of a packet is one
			t.Errorf("%s: send: %v", p, err)
			return false
		}
		select {
		case <-heard:
			return true
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
}

// listen opens an ear where a packet goes, once; it closes with the test.
func (e *ears) listen(t *testing.T, p packet) error {
	key := p.to.String()
	if p.udp {
		key += "/udp"
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.open[key] {
		return nil
	}
	e.open[key] = true
	ns := ""
	switch p.to.Addr() {
	case peer, joiner, tunnelPeer:
		ns = e.name("peer")
	case router:
		ns = e.name("router")
	}
	_, err := in(t, ns, 0, func() (struct{}, error) { return struct{}{}, e.ear(t, p) })
	return err
}

func (e *ears) ear(t *testing.T, p packet) error {
	lc := net.ListenConfig{Control: freebind}
	if !p.udp {
		l, err := lc.Listen(t.Context(), "tcp4", p.to.String())
		if err == nil {
			t.Cleanup(func() { _ = l.Close() })
		}
		return err
	}
	conn, err := lc.ListenPacket(t.Context(), "udp4", p.to.String())
	if err != nil {
		return err
	}
	t.Cleanup(func() { _ = conn.Close() })
	go func() {
		buf := make([]byte, 256)
		for {
			n, _, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			e.mu.Lock()
			if heard := e.heard[string(buf[:n])]; heard != nil {
				close(heard)
				delete(e.heard, string(buf[:n]))
			}
			e.mu.Unlock()
		}
	}()
	return nil
}

// freebind lets an ear listen on an address that the interface does not have yet.
func freebind(_, _ string, c syscall.RawConn) error {
	var err error
	failed := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_FREEBIND, 1) })
	return errors.Join(failed, err)
}

// send sends once, from a socket of the calling thread.
func (p packet) send(ctx context.Context, mark string) error {
	var d net.Dialer
	network := "tcp4"
	if p.udp {
		network = "udp4"
	}
	if local := netip.AddrPortFrom(p.from, p.sport); p.from.IsValid() && p.udp {
		d.LocalAddr = net.UDPAddrFromAddrPort(local)
	} else if p.from.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(local)
	}
	conn, err := d.DialContext(ctx, network, p.to.String())
	if err != nil {
		return err
	}
	defer conn.Close()
	if p.udp {
		_, err = conn.Write([]byte(mark))
	}
	return err
}
