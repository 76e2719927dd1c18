package mdns

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// host is a network namespace at one end of a wire.
type host struct {
	t      testing.TB
	ns     *os.File
	thread int // that is in it
}

// newHost makes a namespace that ends with the test.
func newHost(t testing.TB) *host {
	t.Helper()
	h := &host{t: t}
	ready, end := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			h.thread = unix.Gettid()
			h.ns, err = os.Open("/proc/thread-self/ns/net")
		}
		ready <- err
		<-end
	}()
	if err := <-ready; err != nil {
		t.Fatal("this test needs root, for network namespaces: ", err)
	}
	t.Cleanup(func() { close(end); _ = h.ns.Close() })
	return h
}

// do runs f in the namespace.
func (h *host) do(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := unix.Setns(int(h.ns.Fd()), unix.CLONE_NEWNET)
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

func (h *host) ip(args ...string) {
	h.t.Helper()
	err := h.do(func() error {
		out, err := exec.Command("ip", args...).CombinedOutput()
		if err != nil {
			err = errors.New(strings.Join(args, " ") + ": " + err.Error() + ": " + string(out))
		}
		return err
	})
	if err != nil {
		h.t.Fatal(err)
	}
}

// segment is two hosts on one wire, 192.0.2.1 and 192.0.2.2, at w0.
func segment(t testing.TB) (a, b *host) {
	t.Helper()
	a, b = newHost(t), newHost(t)
	a.ip("link", "add", "w0", "type", "veth", "peer", "name", "w1")
	a.ip("link", "set", "w1", "netns", strconv.Itoa(b.thread))
	b.ip("link", "set", "w1", "name", "w0")
	for i, h := range []*host{a, b} {
		h.ip("address", "add", "192.0.2."+strconv.Itoa(i+1)+"/24", "dev", "w0")
		h.ip("link", "set", "w0", "up")
	}
	return a, b
}

// announce runs Announce until the returned function is called.
func (h *host) announce(a Announcement) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.do(func() error { return Announce(ctx, "w0", a) }) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			h.t.Error(err)
		}
	}
}

// browse runs Browse until the test ends; what it finds comes by the channel.
func (h *host) browse(addr string) <-chan Announcement {
	ctx, cancel := context.WithCancel(context.Background())
	found, done := make(chan Announcement, 1000), make(chan error, 1)
	go func() {
		done <- h.do(func() error {
			return Browse(ctx, "w0", netip.MustParseAddr(addr), func(a Announcement) { found <- a })
		})
	}()
	h.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			h.t.Error(err)
		}
	})
	return found
}

// dial gives a socket of the host, bound to a port.
func (h *host) dial(port int) *net.UDPConn {
	h.t.Helper()
	var conn *net.UDPConn
	err := h.do(func() (err error) {
		conn, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1), Port: port})
		return err
	})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

var everybody = &net.UDPAddr{IP: net.IPv4(224, 0, 0, 251), Port: port}

func expect(t testing.TB, found <-chan Announcement, instance string) {
	t.Helper()
	select {
	case a := <-found:
		if a.Instance != instance {
			t.Errorf("%+v was found", a)
		}
	case <-time.After(10 * time.Second):
		t.Fatalf("%s was not found", instance)
	}
}

func TestHostsFindEachOther(t *testing.T) {
	t.Run("who is there already", func(t *testing.T) {
		a, b := segment(t)
		stop := a.announce(h1)
		defer stop()
		expect(t, b.browse("192.0.2.2"), h1.Instance)
	})
	t.Run("who comes later", func(t *testing.T) {
		a, b := segment(t)
		found := b.browse("192.0.2.2")
		stop := a.announce(h1)
		defer stop()
		expect(t, found, h1.Instance)
	})
	t.Run("two searches of one host, and a responder of another program", func(t *testing.T) {
		a, b := segment(t)
		err := a.do(func() error {
			w0, err := net.InterfaceByName("w0")
			if err != nil {
				return err
			}
			other, err := net.ListenMulticastUDP("udp4", w0, everybody)
			if err == nil {
				t.Cleanup(func() { _ = other.Close() })
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		stop := a.announce(h1)
		defer stop()
		expect(t, b.browse("192.0.2.2"), h1.Instance)
		expect(t, b.browse("192.0.2.2"), h1.Instance)
	})
}

// What one host says of another, says from another port, or says badly, is
// nothing; what it says of itself is heard beside it.
func TestOnlyAHostItselfIsBelieved(t *testing.T) {
	a, b := segment(t)
	found := b.browse("192.0.2.2")
	right, wrong := a.dial(port), a.dial(0)
	say := func(conn *net.UDPConn, packet []byte) {
		t.Helper()
		if _, err := conn.WriteToUDP(packet, everybody); err != nil {
			t.Fatal(err)
		}
	}
	lie, self := h1, h1
	lie.Addr = netip.MustParseAddr("192.0.2.77")
	self.Addr = netip.MustParseAddr("192.0.2.2")
	a.ip("route", "add", "224.0.0.0/4", "dev", "w0")
	// It listens from some time on.
	first := h1
	first.Instance = "first"
	deadline := time.Now().Add(10 * time.Second)
	for listens := false; !listens; {
		say(right, answered(t, first, ttl, nil))
		select {
		case <-found:
			listens = true
		case <-time.After(20 * time.Millisecond):
			if time.Now().After(deadline) {
				t.Fatal("nobody listens")
			}
		}
	}
	for range 3 {
		say(right, answered(t, lie, ttl, nil))
		say(right, answered(t, self, ttl, nil))
		say(wrong, answered(t, h1, ttl, nil))
		for name, packet := range hostile(t) {
			if len(packet) <= 1400 {
				say(right, packet)
			} else if _, err := right.WriteToUDP(packet[:1400], everybody); err != nil {
				t.Fatal(name, err)
			}
		}
	}
	honest := h1
	honest.Instance = "honest"
	say(right, answered(t, honest, ttl, nil))
	for a := first; a.Instance == "first"; {
		select {
		case a = <-found:
			if a.Instance != "first" && a.Instance != "honest" {
				t.Errorf("%+v was found", a)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("the honest host was not found")
		}
	}
}

// A question by plain DNS, as `dig -p 5353 @224.0.0.251` asks it, is answered to
// who asked. However many questions come, all are told once a second.
func TestQuestions(t *testing.T) {
	a, b := segment(t)
	a.ip("route", "add", "224.0.0.0/4", "dev", "w0")
	heard := a.browse("192.0.2.1")
	mine := h1
	mine.Addr = netip.MustParseAddr("192.0.2.2")
	stop := b.announce(mine)
	defer stop()
	expect(t, heard, mine.Instance)

	plain := a.dial(0)
	packet := asked(t)
	packet[0], packet[1] = 0x12, 0x34
	if _, err := plain.WriteToUDP(packet, everybody); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, maxPacket)
	if err := plain.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	n, _, err := plain.ReadFromUDP(buf)
	if err != nil {
		t.Fatal(err)
	}
	if m, err := read(buf[:n]); err != nil || m.id != 0x1234 || m.found == nil || m.found.Addr != mine.Addr {
		t.Errorf("%+v, %v", m, err)
	}

	for len(heard) > 0 { // what was said before
		<-heard
	}
	asking := a.dial(port)
	const answers = 4
	began := time.Now()
	for n := 0; n < answers; {
		if time.Since(began) > 30*time.Second {
			t.Fatalf("%d answers in %s", n, time.Since(began))
		}
		if _, err := asking.WriteToUDP(asked(t), everybody); err != nil {
			t.Fatal(err)
		}
		select {
		case <-heard:
			n++
		case <-time.After(time.Millisecond):
		}
	}
	// The first may have been on its way already, and the second come at once: the
	// others are a second apart each.
	if took := time.Since(began); took < (answers-2)*time.Second {
		t.Errorf("%d answers in %s", answers, took)
	}
}

func TestAnnounceSaysWhatIsWrong(t *testing.T) {
	a, _ := segment(t)
	err := a.do(func() error { return Announce(t.Context(), "nothere", h1) })
	if err == nil || !strings.Contains(err.Error(), "nothere") {
		t.Error(err)
	}
	err = a.do(func() error { return Browse(t.Context(), "lo", h1.Addr, nil) })
	if err == nil || !strings.Contains(err.Error(), "multicast") {
		t.Error(err)
	}
}
