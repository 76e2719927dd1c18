package firewall

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The host's own addresses, and those around it.
var (
	self   = netip.MustParseAddr("198.18.0.1") // on the underlay
	peer   = netip.MustParseAddr("198.18.0.2") // a host on the same segment
	router = netip.MustParseAddr("198.19.0.7") // a host that this one is the router of
	joiner = netip.MustParseAddr("198.18.0.9") // no host yet
)

var consul = []Port{{unix.IPPROTO_TCP, 8300}, {unix.IPPROTO_TCP, 8301}, {unix.IPPROTO_UDP, 8301}}

func rules() Rules {
	return Rules{
		Underlay: []string{"ul0"}, Hosts: []netip.Addr{self, peer, router}, Consul: consul, Userspace: true,
		GatewayPrefix: "spg", EndpointPrefix: "spv",
	}
}

// world makes the neighbours of the host, each a namespace on an interface of its
// own. The host forwards, and masquerades what leaves for the underlay, as Docker
// and package nat have it.
func world(t *testing.T) func(name string) (ns string) {
	t.Helper()
	name := func(of string) string { return fmt.Sprintf("fwtest-%s-%d", of, os.Getpid()) }
	for _, end := range []struct{ ns, iface, host, guest string }{
		{"peer", "ul0", self.String() + "/24", peer.String() + "/24"},
		{"router", "ul1", "198.19.0.1/24", router.String() + "/24"},
		{"docker", "docker0", "172.17.0.1/16", "172.17.0.2/16"},
		{"compose", "br-0123456789ab", "172.18.0.1/16", "172.18.0.2/16"},
		{"own", "spgtest", "10.6.0.1/16", "10.6.0.2/16"},
		{"past", "spvtest", "10.8.0.1/16", "10.8.0.2/16"},
	} {
		do(t, "ip", "netns", "add", name(end.ns))
		t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", name(end.ns)).Run() })
		do(t, "ip", "link", "add", end.iface, "type", "veth", "peer", "name", "eth0", "netns", name(end.ns))
		t.Cleanup(func() { _ = exec.Command("ip", "link", "del", end.iface).Run() })
		do(t, "ip", "addr", "add", end.host, "dev", end.iface)
		do(t, "ip", "link", "set", end.iface, "up")
		do(t, "ip", "-n", name(end.ns), "link", "set", "lo", "up")
		do(t, "ip", "-n", name(end.ns), "addr", "add", end.guest, "dev", "eth0")
		do(t, "ip", "-n", name(end.ns), "link", "set", "eth0", "up")
		do(t, "ip", "-n", name(end.ns), "route", "add", "default", "via", strings.Split(end.host, "/")[0])
	}
	do(t, "ip", "link", "set", "lo", "up")
	do(t, "ip", "-n", name("peer"), "addr", "add", joiner.String()+"/24", "dev", "eth0")
	// A container with CAP_NET_RAW can write any address on its packets.
	for _, liar := range []string{"docker", "own"} {
		do(t, "ip", "-n", name(liar), "addr", "add", router.String()+"/32", "dev", "lo")
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, subnet := range []string{"172.17.0.0/16", "172.18.0.0/16", "10.6.0.0/16", "10.8.0.0/16"} {
		do(t, "iptables-nft", "-w", "-t", "nat", "-A", "POSTROUTING", "-s", subnet, "-o", "ul+", "-j", "MASQUERADE")
	}
	t.Cleanup(func() { _ = exec.Command("iptables-nft", "-w", "-t", "nat", "-F", "POSTROUTING").Run() })
	return name
}

// packet is one attempt to reach a port.
type packet struct {
	who   string // a namespace of world, or "self"
	uid   int    // of the sender's socket
	from  netip.Addr
	sport uint16 // with from; 0: any
	to    netip.AddrPort
	udp   bool
	want  bool
}

func (p packet) String() string {
	proto := "tcp"
	if p.udp {
		proto = "udp"
	}
	return fmt.Sprintf("%s (uid %d, from %s) to %s/%s", p.who, p.uid, p.from, p.to, proto)
}

func udp(who string, to netip.Addr, port uint16, want bool) packet {
	return packet{who: who, to: netip.AddrPortFrom(to, port), udp: true, want: want}
}

func tcp(who string, to netip.Addr, port uint16, want bool) packet {
	return packet{who: who, to: netip.AddrPortFrom(to, port), want: want}
}

func (p packet) as(from netip.Addr) packet { p.from = from; return p }
func (p packet) user(uid int) packet       { p.uid = uid; return p }

// attempts are who may reach what while the firewall is as rules says.
var attempts = []packet{
	// Another host's ports, through this host's masquerade.
	udp("docker", peer, 4789, false), udp("compose", peer, 4789, false), udp("own", peer, 4789, false),
	tcp("docker", peer, 8300, false), tcp("compose", peer, 8300, false), tcp("own", peer, 8300, false),
	tcp("docker", peer, 8301, false), udp("compose", peer, 8301, false), udp("own", peer, 8301, false),
	// With the address of a host written on it, to the next.
	udp("docker", peer, 4789, false).as(router), udp("own", peer, 4789, false).as(router), udp("docker", peer, 8301, false).as(router),
	// VXLAN to anywhere: nothing behind this host shall hear it in its name.
	udp("own", joiner, 4789, false),
	// This host's ports.
	udp("docker", self, 4789, false), udp("own", self, 4789, false), udp("docker", self, 4789, false).as(router),
	tcp("docker", self, 8300, false), tcp("compose", self, 8300, false), tcp("own", self, 8300, false),
	udp("docker", self, 8301, false), udp("docker", netip.MustParseAddr("172.17.0.1"), 4789, false),
	// A user of this host.
	tcp("self", peer, 8300, false).user(65534), udp("self", peer, 8301, false).user(65534), tcp("self", self, 8300, false).user(65534),
	udp("self", peer, 4789, false).user(65534),
	// Past the switch.
	tcp("past", peer, 80, false), udp("past", self, 53, false),

	// Who may: root here, hosts, who wants to become one, and a host behind us.
	tcp("self", peer, 8300, true), udp("self", peer, 8301, true), tcp("self", self, 8300, true),
	tcp("peer", self, 8300, true), udp("peer", self, 4789, true), udp("peer", self, 8301, true),
	udp("peer", self, 8301, true).as(joiner), tcp("peer", self, 8300, true).as(joiner),
	udp("peer", router, 4789, true), tcp("peer", router, 8300, true).as(joiner),
	udp("router", peer, 4789, true), tcp("router", peer, 8300, true), udp("router", self, 4789, true), tcp("router", self, 8300, true),
	// All other ports are none of ours.
	tcp("docker", peer, 80, true), udp("own", peer, 53, true), tcp("own", peer, 80, true), tcp("self", peer, 80, true).user(65534),
	udp("docker", joiner, 4789, true), // Docker's business: no host of ours
}

func TestWhoReachesThePorts(t *testing.T) {
	e := newEars(world(t))
	f := New(slog.New(slog.DiscardHandler))
	t.Cleanup(func() {
		if err := f.Clear(); err != nil {
			t.Error(err)
		}
	})
	var open []packet
	for _, p := range attempts {
		p.want = true
		open = append(open, p)
	}
	judge(t, e, "without rules, which shows that the rules do it", open)
	if err := f.Set(t.Context(), rules()); err != nil {
		t.Fatal(err)
	}
	judge(t, e, "with rules", attempts)

	// Before the hosts are known nothing but the underlay speaks to these ports.
	r := rules()
	r.Hosts = nil
	if err := f.Set(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	judge(t, e, "before the hosts are known", []packet{
		udp("docker", peer, 4789, false), tcp("compose", peer, 8300, false), udp("own", joiner, 8301, false), tcp("docker", self, 8300, false),
		udp("peer", self, 8301, true).as(joiner), tcp("peer", self, 8300, true), tcp("docker", peer, 80, true),
	})

	// The tunnel address is on an interface that carries no packet: they come by two.
	r.Underlay = []string{"ul0", "ul1"}
	if err := f.Set(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	judge(t, e, "with two interfaces, before the hosts are known", []packet{
		udp("docker", peer, 4789, false), tcp("own", self, 8300, false), tcp("docker", self, 8300, false),
		tcp("peer", self, 8300, true), udp("peer", self, 8301, true).as(joiner), tcp("router", self, 8300, true), udp("router", peer, 4789, true),
	})

	// With a Consul of somebody else's these ports are somebody else's, too.
	r = rules()
	r.Consul = nil
	if err := f.Set(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	judge(t, e, "with another's Consul", []packet{
		udp("docker", peer, 4789, false), udp("own", self, 4789, false), tcp("docker", peer, 8300, true), udp("own", peer, 8301, true),
	})
}

// judge tries all packets side by side: what must fail takes its time.
func judge(t *testing.T, e *ears, when string, packets []packet) {
	t.Helper()
	var wg sync.WaitGroup
	for _, p := range packets {
		wg.Go(func() {
			if got := e.reaches(t, p); got != p.want {
				t.Errorf("%s: %s is through: %v", when, p, got)
			}
		})
	}
	wg.Wait()
}

// TestTable shows that the table is desired state: what is taken from it or put
// into it is undone, and nothing is written when nothing differs.
func TestTable(t *testing.T) {
	f := New(slog.New(slog.DiscardHandler))
	set := func(r Rules) string {
		t.Helper()
		if err := f.Set(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		return do(t, "nft", "-a", "list", "table", "ip", tableName) // with handles: a new rule has a new one
	}
	first := set(rules())
	if again := set(rules()); again != first {
		t.Errorf("written anew without a reason:\n%s\n%s", first, again)
	}
	plain := func() string { return do(t, "nft", "list", "table", "ip", tableName) }
	want := plain()
	for _, spoil := range []string{
		"flush ruleset",
		"delete table ip socketplane",
		"flush chain ip socketplane forward",
		"flush chain ip socketplane arriving",
		"insert rule ip socketplane input accept",
		"add chain ip socketplane other",
		"delete element ip socketplane hosts { 198.18.0.2 }",
		"add element ip socketplane hosts { 203.0.113.9 }",
		"add chain ip socketplane input { policy drop; }",
	} {
		do(t, "nft", spoil)
		if out, err := exec.CommandContext(t.Context(), "nft", "list", "table", "ip", tableName).Output(); err == nil && string(out) == want {
			t.Errorf("%q changes nothing", spoil)
		}
		set(rules())
		if got := plain(); got != want {
			t.Errorf("after %q:\n%s\nwant\n%s", spoil, got, want)
		}
	}
	more := rules()
	for i := range 2500 { // more than one message holds
		more.Hosts = append(more.Hosts, netip.AddrFrom4([4]byte{10, 99, byte(i / 250), byte(i%250 + 1)}))
	}
	handles := set(more)
	if n := strings.Count(handles, "10.99."); n != 2500 {
		t.Errorf("the set has %d of 2500 hosts", n)
	}
	if set(rules()); plain() != want {
		t.Errorf("hosts that left are still there:\n%s", plain())
	}
	for range 2 {
		if err := f.Clear(); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.CommandContext(t.Context(), "nft", "list", "table", "ip", tableName).Output(); err == nil {
		t.Errorf("after Clear:\n%s", out)
	}

	// Close is for the first life on a host, or another place in the cluster.
	alone := rules()
	alone.Consul = nil
	set(alone)
	closed := func() string {
		t.Helper()
		r := rules()
		r.Userspace = false // it is not known yet
		if err := f.Close(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		return plain()
	}
	if got := closed(); !strings.Contains(got, "before all are known") || !strings.Contains(got, "8300") {
		t.Errorf("the table of a host alone stays:\n%s", got)
	}
	set(rules())
	if got := closed(); got != want {
		t.Errorf("what an earlier life knew is gone:\n%s\nwant\n%s", got, want)
	}
	do(t, "nft", "flush", "ruleset")
	if got := closed(); !strings.Contains(got, "before all are known") {
		t.Errorf("not closed:\n%s", got)
	}
	if err := f.Clear(); err != nil {
		t.Fatal(err)
	}
}

func TestRefuses(t *testing.T) {
	f := New(slog.New(slog.DiscardHandler))
	for what, spoil := range map[string]func(*Rules){
		"a name with a space":      func(r *Rules) { r.Underlay = []string{"a b"} },
		"a name that is too long":  func(r *Rules) { r.Underlay = []string{"ul0", strings.Repeat("x", 16)} },
		"no prefix of gateways":    func(r *Rules) { r.GatewayPrefix = "" },
		"a star in a prefix":       func(r *Rules) { r.EndpointPrefix = "*" },
		"an IPv6 tunnel's address": func(r *Rules) { r.Hosts = append(r.Hosts, netip.IPv6Loopback()) },
	} {
		r := rules()
		spoil(&r)
		if err := f.Set(t.Context(), r); err == nil {
			t.Errorf("%s was taken", what)
		}
	}
}

// BenchmarkSet measures a Set that finds nothing to change, with 1,000 hosts.
func BenchmarkSet(b *testing.B) {
	f := New(slog.New(slog.DiscardHandler))
	r := rules()
	for i := range 1000 {
		r.Hosts = append(r.Hosts, netip.AddrFrom4([4]byte{10, 99, byte(i / 250), byte(i%250 + 1)}))
	}
	b.Cleanup(func() { _ = f.Clear() })
	for b.Loop() {
		if err := f.Set(b.Context(), r); err != nil {
			b.Fatal(err)
		}
	}
}

// patience is how long a packet may take that must arrive; silence how long one is
// waited for that must not.
const (
	patience = 5 * time.Second
	silence  = 700 * time.Millisecond
)
