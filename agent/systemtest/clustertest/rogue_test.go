package clustertest

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

// rogue is a machine on the segment that answers everybody's search for a cluster
// and wants to be joined: up to a thousand messages a second, of every kind that may
// mislead.
type rogue struct {
	said   atomic.Int64
	called atomic.Int64 // how often somebody came to its gossip port
	heard  atomic.Int64 // announcements of others, which it repeats

	stop func()
}

const roguePace = time.Millisecond

// startRogue makes host k one.
func startRogue(t testing.TB, k int) *rogue {
	t.Helper()
	r := &rogue{}
	var mdns *net.UDPConn
	var gossip net.Listener
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		ready <- func() error {
			ns, err := unix.Open(hosts.Host(k).Namespace(), unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(ns) //nolint:errcheck // only read from
			if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
				return err
			}
			iface, err := net.InterfaceByName("br-phy")
			if err != nil {
				return err
			}
			if mdns, err = net.ListenMulticastUDP("udp4", iface, segment); err != nil {
				return err
			}
			gossip, err = net.Listen("tcp4", hosts.Host(k).Addr.String()+":8301")
			return err
		}()
	}()
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	own := hosts.Host(k).Addr.As4()
	repeat := make(chan []byte, 10)
	var done sync.WaitGroup
	done.Go(func() { r.listen(mdns, own, repeat) })
	done.Go(func() { r.speak(mdns, own, repeat) })
	done.Go(func() { r.answer(gossip) })
	r.stop = sync.OnceFunc(func() {
		_, _ = mdns.Close(), gossip.Close()
		done.Wait()
	})
	t.Cleanup(r.stop)
	return r
}

var segment = &net.UDPAddr{IP: net.IPv4(224, 0, 0, 251), Port: 5353}

// answer takes every call and says nothing: who waits for it waits long.
func (r *rogue) answer(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		r.called.Add(1)
		defer conn.Close()
	}
}

// listen gives what others announce, to be repeated.
func (r *rogue) listen(conn *net.UDPConn, own [4]byte, repeat chan<- []byte) {
	buf := make([]byte, 9000)
	for {
		n, from, err := conn.ReadFromUDP(buf)
		if err != nil {
			return
		}
		if n > 3 && buf[2]&0x80 != 0 && !from.IP.Equal(own[:]) {
			r.heard.Add(1)
			select {
			case repeat <- bytes.Clone(buf[:n]):
			default:
			}
		}
	}
}

func (r *rogue) speak(conn *net.UDPConn, own [4]byte, repeat <-chan []byte) {
	tick := time.NewTicker(roguePace)
	defer tick.Stop()
	real := [4]byte{198, 18, 0, 1}
	var stolen []byte
	for n := 0; ; n++ {
		select {
		case stolen = <-repeat:
		case <-tick.C:
		}
		var packet []byte
		switch n % 8 {
		case 0:
			packet = forged(own, 8301, "v=1", "proof=AAAAAAAAAAAAAAAAAAAAAA")
		case 1: // as of 2015
			packet = forged(own, 8301, "Docker Cluster")
		case 2:
			packet = forged(own, []uint16{0, 1, 22, 65535}[rand.N(4)], "v=1", "proof=AAAAAAAAAAAAAAAAAAAAAA")
		case 3: // of addresses that are somebody's, nobody's, or none
			packet = forged([][4]byte{real, {198, 18, 0, 77}, {127, 0, 0, 1}, {224, 0, 0, 251}, {0, 0, 0, 0}, {203, 0, 113, 1}}[rand.N(6)], 8301, "v=1", "proof=AAAAAAAAAAAAAAAAAAAAAA")
		case 4: // what a host of the cluster said
			packet = stolen
		case 5: // the same, of ourselves
			packet = bytes.ReplaceAll(stolen, real[:], own[:])
		case 6:
			packet = make([]byte, rand.N(1400))
			for i := range packet {
				packet[i] = byte(rand.Uint32())
			}
		case 7: // a good one with something broken in it
			packet = forged(own, 8301, "v=1", "proof=AAAAAAAAAAAAAAAAAAAAAA")
			packet[rand.N(len(packet))] ^= byte(1 + rand.N(255))
			packet = packet[:rand.N(len(packet))]
		}
		if len(packet) == 0 {
			continue
		}
		_, err := conn.WriteToUDP(packet, segment)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			r.said.Add(1)
		}
	}
}

// forged is an announcement that the library makes well and nobody should heed.
func forged(addr [4]byte, port uint16, text ...string) []byte {
	service := dnsmessage.MustNewName("_docker._cluster.local.")
	name := dnsmessage.MustNewName("rogue._docker._cluster.local.")
	target := dnsmessage.MustNewName("rogue.local.")
	header := func(n dnsmessage.Name) dnsmessage.ResourceHeader {
		return dnsmessage.ResourceHeader{Name: n, Class: dnsmessage.ClassINET, TTL: 4500}
	}
	m := dnsmessage.Message{
		Header:  dnsmessage.Header{Response: true, Authoritative: true},
		Answers: []dnsmessage.Resource{{Header: header(service), Body: &dnsmessage.PTRResource{PTR: name}}},
		Additionals: []dnsmessage.Resource{
			{Header: header(name), Body: &dnsmessage.SRVResource{Port: port, Target: target}},
			{Header: header(name), Body: &dnsmessage.TXTResource{TXT: text}},
			{Header: header(target), Body: &dnsmessage.AResource{A: addr}},
		},
	}
	packet, err := m.Pack()
	if err != nil {
		panic(err) // all of it is written above
	}
	return packet
}
