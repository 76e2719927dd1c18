package ovs

import (
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// goroutines counts those whose stack has a text.
func goroutines(text string) (n int) {
	buf := make([]byte, 64<<20)
	for one := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if strings.Contains(one, text) {
			n++
		}
	}
	return n
}

// readTold reads of which addresses members are told, until all was sent or the sender
// has given up.
func readTold(t *testing.T, c net.Conn) (told []string) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for header := make([]byte, ofHeaderLen); ; {
		if _, err := io.ReadFull(c, header); err != nil {
			return told
		}
		body := make([]byte, binary.BigEndian.Uint16(header[2:])-ofHeaderLen)
		if _, err := io.ReadFull(c, body); err != nil {
			return told
		}
		switch header[1] {
		case ofPacketOut:
			frame := body[len(body)-MinProbe:]
			told = append(told, netip.AddrFrom4([4]byte(frame[28:32])).String())
		case ofBarrier:
			_ = c.Close()
			return told
		}
	}
}

// TestTellingIsBounded: while the switch does not take what members are told, one
// goroutine waits for it, whatever changes meanwhile. It tells the newest addresses then.
// Close ends it and waits for its end.
func TestTellingIsBounded(t *testing.T) {
	const telling, inside = "ovs.(*Switch).tell", "ovs.(*Switch).announce("
	s := &Switch{cfg: Config{RunDir: t.TempDir(), Bridge: "b"}, log: slog.New(slog.DiscardHandler)}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: s.controlPath(), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	accept := func() net.Conn {
		t.Helper()
		if err := ln.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		c, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	const changes = 1000
	ip := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 6, byte(i >> 8), byte(i)}) }
	change := func(i int) {
		var r rendering
		r.answer(Segment{VNI: vniA}, ip(i), mac(2))
		s.tell([]string{r.flows[0].addLine()})
	}
	began := time.Now()
	change(0)
	first := accept() // and no answer
	for i := range changes {
		change(i)
	}
	if n := goroutines(telling); n > 1 || n == 0 && time.Since(began) < announceTimeout {
		t.Errorf("%d goroutines tell", n)
	}
	_ = first.Close()
	newest := ip(changes - 1).String()
	var told []string
	for !slices.Contains(told, newest) {
		if told = readTold(t, accept()); len(told) > maxAnnounced {
			t.Errorf("told of %d at once", len(told))
		}
		if time.Since(began) < announceTimeout { // else a stalled machine has given up some
			if len(told) != maxAnnounced || told[0] != ip(changes-maxAnnounced).String() || told[maxAnnounced-1] != newest {
				t.Fatalf("told of %d: %q", len(told), told)
			}
		} else {
			change(changes - 1)
		}
	}
	change(0)
	accept() // and no answer
	s.Close()
	if n := goroutines(inside); n != 0 {
		t.Errorf("%d goroutines tell after Close", n)
	}
	change(0) // as a change of flows that ends late
	s.Close()
	if err := ln.SetDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if c, err := ln.Accept(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("it tells after Close: %v, %v", c, err)
	}
}
