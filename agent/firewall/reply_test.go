package firewall

import (
	"log/slog"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// TestNoReplyToAContainer: a container sends from a port of the cluster to a host,
// and is masqueraded with that port. What the host then sends to that port of ours
// must not go to the container as an answer: it would be Consul's calls, which have
// no password, and other containers' packets.
func TestNoReplyToAContainer(t *testing.T) {
	e := newEars(world(t))
	f := New(slog.New(slog.DiscardHandler))
	t.Cleanup(func() {
		if err := f.Clear(); err != nil {
			t.Error(err)
		}
	})
	lured := uint16(40000) // source ports of the host that is lured, each used once
	lure := func(r *Rules, who string, host netip.Addr, p Port, drawn bool) {
		t.Helper()
		if r != nil {
			if err := f.Set(t.Context(), *r); err != nil {
				t.Fatal(err)
			}
		}
		lured++
		from := netip.AddrPortFrom(host, lured)
		if _, err := in(t, e.name(who), 0, func() (struct{}, error) { return struct{}{}, bait(p, from) }); err != nil {
			t.Fatalf("%s from port %d: %v", who, p.Number, err)
		}
		answer := packet{who: "peer", from: host, sport: lured, to: netip.AddrPortFrom(self, p.Number), udp: p.Proto == unix.IPPROTO_UDP, want: !drawn}
		if got := e.reaches(t, answer); got == drawn {
			t.Errorf("after %s sent from protocol %d, port %d: what a host sends to that port of ours arrives: %v", who, p.Proto, p.Number, got)
		}
	}
	vxlan, gossip := Port{unix.IPPROTO_UDP, 4789}, Port{unix.IPPROTO_UDP, 8301}
	lure(nil, "docker", peer, vxlan, true) // without rules: which shows that the rules do it
	known, unknown := rules(), rules()
	unknown.Hosts = nil
	for _, r := range []*Rules{&known, &unknown} {
		for _, who := range []string{"docker", "compose", "own"} {
			for _, p := range []Port{vxlan, gossip, {unix.IPPROTO_TCP, 8300}, {unix.IPPROTO_TCP, 8301}} {
				lure(r, who, peer, p, false)
			}
		}
	}
	// A host that is to join: what is sent before that counts afterwards too.
	if err := f.Set(t.Context(), known); err != nil {
		t.Fatal(err)
	}
	for _, p := range []Port{vxlan, {unix.IPPROTO_TCP, 8300}, {unix.IPPROTO_TCP, 8301}} {
		lure(nil, "docker", joiner, p, false)
	}
	lure(nil, "docker", joiner, gossip, true) // its own gossip with others is its own business
}

// bait sends from a port of the cluster, as a container without privileges can. TCP's
// first packet has a signature (RFC 2385) that the host does not know, so it gives no
// answer that would end the connection in the books of this host.
func bait(p Port, to netip.AddrPort) error {
	kind := unix.SOCK_DGRAM
	if p.Proto == unix.IPPROTO_TCP {
		kind = unix.SOCK_STREAM
	}
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return err
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: int(p.Number)}); err != nil {
		return err
	}
	addr := &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	if p.Proto == unix.IPPROTO_UDP {
		return unix.Sendto(fd, []byte("bait"), 0, addr)
	}
	sig := unix.TCPMD5Sig{Keylen: 4}
	sig.Addr.Family = unix.AF_INET
	copy(sig.Addr.Data[2:], to.Addr().AsSlice())
	copy(sig.Key[:], "none")
	if err := unix.SetsockoptTCPMD5Sig(fd, unix.IPPROTO_TCP, unix.TCP_MD5SIG, &sig); err != nil {
		return err
	}
	if err := unix.Connect(fd, addr); err != unix.EINPROGRESS {
		return err
	}
	return nil
}
