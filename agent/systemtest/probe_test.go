package systemtest

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// probeEvery is the pace of the pings that must not miss a thing.
	probeEvery = 10 * time.Millisecond
	// probeGrace is how long the last answers may take: what is slow is not lost.
	probeGrace = 2 * time.Second
)

// prober pings an address again and again from inside a namespace, as `ping -i
// 0.01` does, and knows which answers came when.
type prober struct {
	name  string
	fd    int
	id    uint16
	to    unix.Sockaddr
	end   chan struct{}  // no more requests
	close chan struct{}  // nor answers
	sends sync.WaitGroup // the one who sends
	hears sync.WaitGroup // the one who receives

	mu   sync.Mutex
	sent []time.Time          // by sequence number
	back map[uint16]time.Time // first answer, by sequence number
}

// probeID gives each prober its ICMP identifier.
var probeID atomic.Uint32

// startProbe pings ip from the namespace until the prober is stopped.
func startProbe(t testing.TB, name, namespace, ip string) *prober {
	t.Helper()
	p := &prober{
		name: name, id: uint16(0x5000 + probeID.Add(1)), to: &unix.SockaddrInet4{Addr: netip.MustParseAddr(ip).As4()},
		end: make(chan struct{}), close: make(chan struct{}), back: map[uint16]time.Time{},
	}
	err := inNamespace(namespace, func() (err error) {
		p.fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
		if err != nil {
			return err
		}
		timeout := unix.NsecToTimeval(hearing.Nanoseconds())
		return unix.SetsockoptTimeval(p.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout)
	})
	if err != nil {
		t.Fatalf("probe %s: %v", name, err)
	}
	p.sends.Go(p.send)
	p.hears.Go(p.receive)
	t.Cleanup(func() { p.finish(0) })
	return p
}

func (p *prober) send() {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for seq := uint16(0); seq < 1<<16-1; seq++ {
		request := make([]byte, 64)
		request[0] = 8 // echo request (RFC 792)
		binary.BigEndian.PutUint16(request[4:], p.id)
		binary.BigEndian.PutUint16(request[6:], seq)
		binary.BigEndian.PutUint16(request[2:], checksum(request))
		p.mu.Lock()
		p.sent = append(p.sent, time.Now())
		p.mu.Unlock()
		_ = unix.Sendto(p.fd, request, 0, p.to) // what could not be sent is not answered
		select {
		case <-p.end:
			return
		case <-tick.C:
		}
	}
}

func (p *prober) receive() {
	buf := make([]byte, 1<<16)
	for {
		n, _, err := unix.Recvfrom(p.fd, buf, 0)
		select {
		case <-p.close:
			return
		default:
		}
		if err != nil || n < 28 {
			continue
		}
		reply := buf[int(buf[0]&0xf)*4 : n]
		if len(reply) < 8 || reply[0] != 0 || binary.BigEndian.Uint16(reply[4:]) != p.id {
			continue
		}
		seq := binary.BigEndian.Uint16(reply[6:])
		p.mu.Lock()
		if _, twice := p.back[seq]; !twice {
			p.back[seq] = time.Now()
		}
		p.mu.Unlock()
	}
}

// counts says how many requests went and how many answers came.
func (p *prober) counts() (sent, answered int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.sent), len(p.back)
}

// awaitSent returns when that many more requests went.
func (p *prober) awaitSent(t testing.TB, more int) {
	t.Helper()
	before, _ := p.counts()
	eventually(t, fmt.Sprintf("%d pings of %s", more, p.name), func() error {
		if now, _ := p.counts(); now < before+more {
			return fmt.Errorf("%d so far", now-before)
		}
		return nil
	})
}

// answeredAfter is when the first answer came to a request that went after
// start, zero when none came yet.
func (p *prober) answeredAfter(start time.Time) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, seq := range slices.Sorted(maps.Keys(p.back)) {
		if p.sent[seq].After(start) {
			return p.back[seq]
		}
	}
	return time.Time{}
}

// finish sends no more, waits for what is under way and gives what was lost.
func (p *prober) finish(grace time.Duration) (sent int, lost []int) {
	select {
	case <-p.close:
	default:
		close(p.end)
		p.sends.Wait() // it may just be sending one more
		deadline := time.Now().Add(grace)
		for time.Now().Before(deadline) {
			if sent, answered := p.counts(); sent == answered {
				break
			}
			<-time.After(probeEvery)
		}
		close(p.close)
		p.hears.Wait()
		_ = unix.Close(p.fd)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for seq := range p.sent {
		if _, ok := p.back[uint16(seq)]; !ok {
			lost = append(lost, seq)
		}
	}
	return len(p.sent), lost
}

// lostNothing ends probers of which each must have sent at least that many and
// had an answer to every one.
func lostNothing(t testing.TB, least int, probers ...*prober) {
	t.Helper()
	for _, p := range probers {
		sent, lost := p.finish(probeGrace)
		if sent < least {
			t.Errorf("%s: only %d pings were sent, fewer than %d", p.name, sent, least)
		}
		if len(lost) > 0 {
			t.Errorf("%s: %d of %d pings were lost: numbers %v", p.name, len(lost), sent, lost)
		}
		t.Logf("%s: %d pings, %d lost", p.name, sent, len(lost))
	}
}
