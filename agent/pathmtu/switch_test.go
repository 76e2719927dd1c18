package pathmtu

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	stdnet "net"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/socketplane/socketplane/ovs"
	"github.com/socketplane/socketplane/ovs/ovstest"
)

// host is an agent's part in measuring, on a real switch.
type host struct {
	*Paths
	i *ovstest.Instance
	s *ovs.Switch
}

// await waits for what is known of the path to the peer.
func (h *host) await(t *testing.T, want Path) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.Now().Add(3 * time.Minute)
	for {
		known, says := h.Known()
		if known["peer"] == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the path is %+v, want %+v; %q", known["peer"], want, says)
		}
		<-tick.C
	}
}

// Two hosts with real switches find what a real wire between them takes, as it
// changes, while a stranger on the wire forges answers in the name of the peer, and
// errors that say that packets are too large.
func TestRealSwitches(t *testing.T) {
	var hosts []*host
	for range 2 {
		i := ovstest.Start(t)
		s, err := ovs.Open(t.Context(), ovs.Config{RunDir: i.Dir, Datapath: ovs.DatapathNetdev})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
		hosts = append(hosts, &host{i: i, s: s})
	}
	wire := ovstest.Join(t, hosts[0].i, hosts[1].i)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 4)
	for n, h := range hosts {
		remote := wire.Addr(1 - n)
		ports, err := h.s.SetTunnels(ctx, []ovs.Tunnel{{Peer: "peer", Remote: remote}})
		if err != nil {
			t.Fatal(err)
		}
		h.Paths = New(filepath.Join(t.TempDir(), "f"), func(ctx context.Context, mac string) (Wire, error) {
			return h.s.OpenProber(ctx, mac)
		}, slog.New(slog.DiscardHandler))
		h.Clamp(1500)
		f := ovs.Forwarding{Self: wire.Addr(n), Peers: []ovs.Peer{{ID: "peer", VTEP: remote, OFPort: ports["peer"]}}, Probe: h.Probe()}
		if err := h.s.SetForwarding(ctx, f); err != nil {
			t.Fatal(err)
		}
		h.Set([]Peer{{ID: "peer", Name: fmt.Sprint("h", 2-n), VTEP: remote, OFPort: ports["peer"], Alive: true}})
		go func() { ended <- h.s.Run(ctx) }()
		go func() { ended <- h.Run(ctx, func() {}) }()
	}
	t.Cleanup(func() {
		cancel()
		for range 4 {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	})
	both := func(want Path) {
		t.Helper()
		for _, h := range hosts {
			h.await(t, want)
		}
	}
	both(Path{MTU: 1500})
	wire.Narrow(t, 1437)
	both(Path{MTU: 1437, Limited: true})
	forge(t, wire, hosts)
	wire.Narrow(t, 1399)
	both(Path{MTU: 1399, Limited: true})
	if got := hosts[0].Clamp(1500); got != 1399 {
		t.Errorf("the MTU is %d", got)
	}
	// Under attack the larger size is still not believed, nor a smaller one.
	hosts[0].mu.Lock()
	hosts[0].peers["peer"].known = false
	hosts[0].hurry(func(*peer) bool { return true })
	hosts[0].mu.Unlock()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for measured := false; !measured; <-tick.C {
		hosts[0].mu.Lock()
		measured = hosts[0].peers["peer"].known
		hosts[0].mu.Unlock()
	}
	both(Path{MTU: 1399, Limited: true})
}

// forge has a stranger send, until the test ends, all that it can without hearing what
// passes.
func forge(t *testing.T, wire *ovstest.Wire, hosts []*host) {
	t.Helper()
	hw := func(h *host) stdnet.HardwareAddr {
		mac, err := stdnet.ParseMAC(strings.Fields(h.i.Run(t, "ip", "-br", "link", "show", "br-phy"))[2])
		if err != nil {
			t.Fatal(err)
		}
		return mac
	}
	victim, peer := wire.Addr(0).As4(), wire.Addr(1).As4()
	ipv4 := func(proto byte, from, to [4]byte, payload []byte) []byte {
		h := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, proto, 0, 0}
		binary.BigEndian.PutUint16(h[2:], uint16(20+len(payload)))
		h = append(append(h, from[:]...), to[:]...)
		binary.BigEndian.PutUint16(h[10:], sum(h))
		return append(h, payload...)
	}
	vxlan := func(from, to [4]byte, vni uint32, inner []byte) []byte {
		u := []byte{0xc0, 0, 0x12, 0xb5, 0, 0, 0, 0, 8, 0, 0, 0}
		binary.BigEndian.PutUint16(u[4:], uint16(8+8+len(inner)))
		return ipv4(17, from, to, append(binary.BigEndian.AppendUint32(u, vni<<8), inner...))
	}
	var packets [][]byte
	for _, dst := range []stdnet.HardwareAddr{{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, {2, 0x73, 0x70, 0, 0, 0}, {2, 0xaa, 0xaa, 0xaa, 0xaa, 0xaa}} {
		for _, size := range []int{60, 1381} {
			inner := slices.Concat(dst, stdnet.HardwareAddr{2, 0x73, 0x70, 1, 0x23, 0x28}, []byte{0x88, 0xb5}, make([]byte, size-14))
			packets = append(packets, vxlan(peer, victim, 0xffffff, inner), vxlan(peer, victim, 0xfffffe, inner))
		}
	}
	for _, mtu := range []uint16{68, 552, 1280, 1300} {
		icmp := append([]byte{3, 4, 0, 0, 0, 0, byte(mtu >> 8), byte(mtu)}, vxlan(victim, peer, 0xffffff, make([]byte, 1400))[:500]...)
		binary.BigEndian.PutUint16(icmp[2:], sum(icmp))
		packets = append(packets, ipv4(1, peer, victim, icmp))
	}
	fd := packetSocket(t, "/run/netns/"+wire.NetNS, "end0")
	stop, done := make(chan struct{}), make(chan struct{})
	// As the peer on the wire, too: the switch sends to where a tunnel's packets come from.
	header := slices.Concat(hw(hosts[0]), hw(hosts[1]), []byte{8, 0})
	go func() {
		defer close(done)
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			_, _ = unix.Write(fd, slices.Concat(header, packets[n%len(packets)]))
		}
	}()
	t.Cleanup(func() { close(stop); <-done; _ = unix.Close(fd) })
}

// packetSocket opens a raw socket on an interface of a namespace.
func packetSocket(t *testing.T, netns, ifname string) int {
	t.Helper()
	type result struct {
		fd  int
		err error
	}
	got := make(chan result)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		got <- func() result {
			ns, err := unix.Open(netns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return result{err: err}
			}
			defer unix.Close(ns) //nolint:errcheck // only entered
			if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
				return result{err: err}
			}
			link, err := stdnet.InterfaceByName(ifname)
			if err != nil {
				return result{err: err}
			}
			fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
			if err == nil {
				err = unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: link.Index})
			}
			return result{fd, err}
		}()
	}()
	r := <-got
	if r.err != nil {
		t.Fatal(r.err)
	}
	return r.fd
}

func sum(b []byte) uint16 {
	var s uint32
	for i := 0; i+1 < len(b); i += 2 {
		s += uint32(b[i])<<8 | uint32(b[i+1])
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return ^uint16(s)
}
