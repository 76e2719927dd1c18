package upgrade

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	pingEvery = 10 * time.Millisecond
	pingGrace = 2 * time.Second // what is slow is not lost
)

// pinger pings an address from a network namespace, and knows what was answered.
type pinger struct {
	name string
	fd   int
	id   uint16
	stop chan struct{} // no more requests
	last chan struct{} // the last request went
	done chan struct{} // nor answers
	busy sync.WaitGroup

	mu       sync.Mutex
	sent     int
	answered map[uint16]bool
}

var pingers uint16 // made so far

// ping begins to ping ip from the namespace of a process.
func ping(t *testing.T, name, namespace, ip string) *pinger {
	t.Helper()
	pingers++
	p := &pinger{name: name, id: 0x6000 + pingers, stop: make(chan struct{}), last: make(chan struct{}), done: make(chan struct{}), answered: map[uint16]bool{}}
	if err := p.open(namespace); err != nil {
		t.Fatalf("ping %s: %v", name, err)
	}
	p.busy.Add(2)
	go p.send(&unix.SockaddrInet4{Addr: netip.MustParseAddr(ip).As4()})
	go p.receive()
	t.Cleanup(func() { p.finish() })
	return p
}

// open makes the socket in a namespace, on a thread that goes back: the lab's end kills
// whatever is in one of its namespaces.
func (p *pinger) open(namespace string) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(home) //nolint:errcheck // read only
	ns, err := unix.Open(namespace, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(ns) //nolint:errcheck // read only
	if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
		return err
	}
	p.fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
	if back := unix.Setns(home, unix.CLONE_NEWNET); back != nil {
		panic("a thread is lost in " + namespace + ": " + back.Error()) // anything may happen on it
	}
	if err != nil {
		return err
	}
	timeout := unix.NsecToTimeval((100 * time.Millisecond).Nanoseconds())
	return unix.SetsockoptTimeval(p.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout)
}

func (p *pinger) send(to unix.Sockaddr) {
	defer p.busy.Done()
	defer close(p.last)
	tick := time.NewTicker(pingEvery)
	defer tick.Stop()
	for seq := uint16(0); ; seq++ {
		request := make([]byte, 64)
		request[0] = 8 // echo request (RFC 792)
		binary.BigEndian.PutUint16(request[4:], p.id)
		binary.BigEndian.PutUint16(request[6:], seq)
		var sum uint32
		for i := 0; i < len(request); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(request[i:]))
		}
		sum = sum>>16 + sum&0xffff
		binary.BigEndian.PutUint16(request[2:], ^uint16(sum>>16+sum&0xffff))
		p.mu.Lock()
		p.sent++
		p.mu.Unlock()
		_ = unix.Sendto(p.fd, request, 0, to) // what could not be sent is not answered
		select {
		case <-p.stop:
			return
		case <-tick.C:
		}
	}
}

func (p *pinger) receive() {
	defer p.busy.Done()
	buf := make([]byte, 2048)
	for {
		n, _, err := unix.Recvfrom(p.fd, buf, 0)
		select {
		case <-p.done:
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
		p.mu.Lock()
		p.answered[binary.BigEndian.Uint16(reply[6:])] = true
		p.mu.Unlock()
	}
}

func (p *pinger) counts() (sent, answered int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sent, len(p.answered)
}

// awaitSent returns when that many requests went.
func (p *pinger) awaitSent(t *testing.T, least int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d pings of %s", least, p.name), func() error {
		if sent, _ := p.counts(); sent < least {
			return fmt.Errorf("%d so far", sent)
		}
		return nil
	})
}

// finish sends no more, waits for answers that are under way, and gives the numbers of
// the requests that were lost, and how many in a row at most. At the end a pinger has
// sent fewer than 65,536.
func (p *pinger) finish() (sent int, lost []int, row int) {
	select {
	case <-p.done:
	default:
		close(p.stop)
		<-p.last // it may just be sending one more
		for deadline := time.Now().Add(pingGrace); time.Now().Before(deadline); {
			if sent, answered := p.counts(); sent == answered {
				break
			}
			<-time.After(pingEvery)
		}
		close(p.done)
		p.busy.Wait()
		_ = unix.Close(p.fd)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	run := 0
	for seq := range p.sent {
		if p.answered[uint16(seq)] {
			run = 0
			continue
		}
		lost = append(lost, seq)
		run++
		row = max(row, run)
	}
	return p.sent, lost, row
}

// lostNothing ends pingers of which each had an answer to every one of its requests.
func lostNothing(t *testing.T, what string, pingers []*pinger) {
	t.Helper()
	for _, p := range pingers {
		sent, lost, row := p.finish()
		if len(lost) > 0 || sent == 0 {
			t.Errorf("%s: %s: %d of %d pings were lost, %d in a row: numbers %v", what, p.name, len(lost), sent, row, lost)
		}
		t.Logf("%s: %s: %d pings, %d lost", what, p.name, sent, len(lost))
	}
}

// lostLittle ends pingers beside which ports of the switch came and went. The switch in
// user space drops a few packets when its own ports change: see others_test.go of
// package systemtest.
func lostLittle(t *testing.T, what string, pingers []*pinger) {
	t.Helper()
	for _, p := range pingers {
		sent, lost, row := p.finish()
		if float64(len(lost)) > max(0.02*float64(sent), 20) || row > 15 || sent == 0 {
			t.Errorf("%s: %s: %d of %d pings were lost, %d in a row: numbers %v", what, p.name, len(lost), sent, row, lost)
		}
		t.Logf("%s: %s: %d pings, %d lost, %d in a row", what, p.name, sent, len(lost), row)
	}
}
