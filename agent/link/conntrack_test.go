package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// tracked lists the connections that the kernel knows of, from what it shows to
// people.
func tracked(t *testing.T) string {
	t.Helper()
	out, err := os.ReadFile("/proc/thread-self/net/nf_conntrack")
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// track has the kernel track connections of this namespace.
func track(t *testing.T) {
	t.Helper()
	rule := []string{"OUTPUT", "-m", "conntrack", "--ctstate", "NEW", "-j", "ACCEPT"}
	for _, args := range [][]string{append([]string{"-w", "-A"}, rule...), {"-w", "-t", "nat", "-A", "OUTPUT", "-p", "udp", "--dport", "5353", "-j", "DNAT", "--to-destination", "10.66.0.2:53"}} {
		if out, err := exec.Command("iptables-nft", args...).CombinedOutput(); err != nil {
			t.Fatalf("iptables: %v: %s", err, out)
		}
	}
	t.Cleanup(func() {
		for _, table := range []string{"filter", "nat"} { // they are this namespace's
			_ = exec.Command("nft", "delete", "table", "ip", table).Run()
		}
	})
}

func send(t *testing.T, addr string) {
	t.Helper()
	conn, err := net.Dial("udp4", addr)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
}

func TestForgetConnections(t *testing.T) {
	l, c := newLinks(t), here(t)
	ip(t, "link", "set", "lo", "up")
	addDummy(t, c, "gate0", "10.66.0.1/24")
	track(t)
	all := []string{
		"127.0.0.1:15000", "127.0.0.1:15001", "10.66.0.1:15000", "10.66.0.2:15000", "10.66.0.3:15000", // the last two are not this host's
		"10.66.0.1:5353", // led to 10.66.0.2
	}
	has := func(addr string) bool {
		host, port, _ := strings.Cut(addr, ":")
		return regexp.MustCompile(` dst=` + regexp.QuoteMeta(host) + ` sport=\d+ dport=` + port + ` `).MatchString(tracked(t))
	}
	any := netip.IPv4Unspecified()
	for name, tt := range map[string]struct {
		stale Stale
		gone  []string
	}{
		"nothing":         {Stale{}, nil},
		"a port":          {Stale{UDP: []netip.AddrPort{netip.AddrPortFrom(any, 15000)}}, []string{all[0], all[2]}},
		"on one address":  {Stale{UDP: []netip.AddrPort{netip.MustParseAddrPort("10.66.0.1:15000")}}, []string{all[2]}},
		"led right":       {Stale{UDP: []netip.AddrPort{netip.AddrPortFrom(any, 5353)}, Keep: netip.MustParseAddr("10.66.0.2")}, nil},
		"led wrong":       {Stale{UDP: []netip.AddrPort{netip.AddrPortFrom(any, 5353)}, Keep: netip.MustParseAddr("10.66.0.9")}, []string{all[5]}},
		"an endpoint":     {Stale{Addr: netip.MustParseAddr("10.66.0.2")}, []string{all[3], all[5]}},
		"nobody there":    {Stale{Addr: netip.MustParseAddr("10.66.0.7")}, nil},
		"a port and more": {Stale{Addr: netip.MustParseAddr("10.66.0.3"), UDP: []netip.AddrPort{netip.AddrPortFrom(any, 15001)}}, []string{all[1], all[4]}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, addr := range all {
				send(t, addr)
				if !has(addr) {
					t.Fatalf("%s is not tracked:\n%s", addr, tracked(t))
				}
			}
			for range 2 {
				if err := l.ForgetConnections(t.Context(), tt.stale); err != nil {
					t.Fatal(err)
				}
			}
			gone := map[string]bool{}
			for _, addr := range tt.gone {
				gone[addr] = true
			}
			for _, addr := range all {
				if has(addr) == gone[addr] {
					t.Errorf("%s is tracked: %v", addr, has(addr))
				}
			}
		})
	}
}

// crowd gives the kernel n connections that nobody asks for.
func crowd(t testing.TB, n int) {
	t.Helper()
	flush := func() {
		if err := netlink.ConntrackTableFlush(netlink.ConntrackTable); err != nil {
			t.Error(err)
		}
	}
	flush()
	t.Cleanup(flush)
	h, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	for i := range n {
		src, dst := net.IPv4(10, 77, byte(i>>8), byte(i)).To4(), net.IPv4(10, 78, 0, 1).To4()
		err := h.ConntrackCreate(netlink.ConntrackTable, unix.AF_INET, &netlink.ConntrackFlow{
			FamilyType: unix.AF_INET, TimeOut: 600,
			Forward: netlink.IPTuple{SrcIP: src, DstIP: dst, SrcPort: 1000, DstPort: 53, Protocol: unix.IPPROTO_UDP},
			Reverse: netlink.IPTuple{SrcIP: dst, DstIP: src, SrcPort: 53, DstPort: 1000, Protocol: unix.IPPROTO_UDP},
		})
		if err != nil {
			t.Fatalf("make connection %d: %v", i, err)
		}
	}
}

// TestForgetConnectionsAsksForFew: the kernel shows what may be stale, and not all
// of its table.
func TestForgetConnectionsAsksForFew(t *testing.T) {
	l, c := newLinks(t), here(t)
	ip(t, "link", "set", "lo", "up")
	addDummy(t, c, "gate0", "10.66.0.1/24")
	track(t)
	crowd(t, 1000)
	for _, addr := range []string{"10.66.0.2:15000", "10.66.0.3:15000", "10.66.0.1:15001"} {
		send(t, addr)
	}
	for _, tt := range []struct {
		stale Stale
		shown int
	}{
		{Stale{Addr: netip.MustParseAddr("10.66.0.2")}, 1},
		{Stale{Addr: netip.MustParseAddr("10.66.0.2")}, 0},
		{Stale{UDP: []netip.AddrPort{netip.MustParseAddrPort("0.0.0.0:15000"), netip.MustParseAddrPort("10.66.0.1:15000")}}, 1}, // 10.66.0.3 is not this host's
		{Stale{UDP: []netip.AddrPort{netip.MustParseAddrPort("10.66.0.1:15001")}}, 1},
	} {
		run := forgetRun{filters: []*staleFilter{{Stale: tt.stale, host: []netip.Addr{netip.MustParseAddr("10.66.0.1")}}}}
		if err := run.forget(); err != nil || run.shown != tt.shown {
			t.Errorf("%+v: %d connections are shown, want %d; %v", tt.stale, run.shown, tt.shown, err)
		}
	}
	// A query that this kernel refuses: ports say nothing without a protocol.
	send(t, "10.66.0.2:15000")
	run := forgetRun{filters: []*staleFilter{{Stale: Stale{Addr: netip.MustParseAddr("10.66.0.2")}}}}
	if _, err := run.delete(tupleQuery{flags: filterDestPort}); !errors.Is(err, unix.EINVAL) {
		t.Errorf("a query that makes no sense: %v", err)
	}
	if err := run.ask([]tupleQuery{{flags: filterDestPort}}); err != nil || run.shown < 1000 {
		t.Errorf("where a query is refused: %d shown, %v", run.shown, err)
	}
	if text := tracked(t); strings.Contains(text, "10.66.0.2") || strings.Contains(text, "dport=15001") ||
		!strings.Contains(text, "10.66.0.3") || strings.Count(text, "src=10.77.") < 1000 {
		t.Errorf("wrong ones are left:\n%.2000s", text)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.ForgetConnections(gone, Stale{Addr: netip.MustParseAddr("10.66.0.3")}); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
}

// TestForgetConnectionsAtOnce: many callers share a run, in which the kernel shows its
// table once; each returns after one that began after its call.
func TestForgetConnectionsAtOnce(t *testing.T) {
	const endpoints = 50
	l, c := newLinks(t), here(t)
	ip(t, "link", "set", "lo", "up")
	addDummy(t, c, "gate0", "10.66.0.1/24")
	track(t)
	crowd(t, 100)
	l.forgetting.turn.Lock() // a run is under way
	done := make(chan error, endpoints)
	for i := range endpoints {
		addr := netip.AddrFrom4([4]byte{10, 66, 0, byte(i + 2)})
		send(t, addr.String()+":15000")
		go func() { done <- l.ForgetConnections(t.Context(), Stale{Addr: addr}) }()
	}
	var run *forgetRun
	eventually(t, "all wait", func() bool {
		l.forgetting.mu.Lock()
		defer l.forgetting.mu.Unlock()
		run = l.forgetting.next
		return run != nil && len(run.filters) == endpoints
	})
	gone, cancel := context.WithCancel(t.Context())
	given := make(chan error, 1)
	go func() { given <- l.ForgetConnections(gone, Stale{Addr: netip.MustParseAddr("10.66.0.99")}) }()
	cancel()
	if err := <-given; !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
	l.forgetting.turn.Unlock()
	for range endpoints {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if text := tracked(t); strings.Contains(text, "dst=10.66.0.") {
		t.Errorf("left:\n%.1000s", text)
	}
	if run.shown < endpoints+100 || run.shown > 2*(endpoints+100) {
		t.Errorf("%d connections are shown, of %d", run.shown, endpoints+100)
	}
}

// TestForgetConnectionsOfAnOldKernel: one that heeds no query shows what was not
// asked for, and that is noticed.
func TestForgetConnectionsOfAnOldKernel(t *testing.T) {
	a, b := netip.MustParseAddr("10.66.0.2"), netip.MustParseAddr("10.66.0.3")
	f := &staleFilter{Stale: Stale{Addr: a, UDP: []netip.AddrPort{netip.MustParseAddrPort("10.66.0.1:53"), netip.MustParseAddrPort("0.0.0.0:54")}}}
	to := func(ip string, port uint16) tuple {
		return tuple{src: b, dst: netip.MustParseAddr(ip), proto: unix.IPPROTO_UDP, dport: port}
	}
	tcp := to("10.66.0.1", 53)
	tcp.proto = unix.IPPROTO_TCP
	for _, tt := range []struct {
		orig, reply tuple
		want        []bool // by query
	}{
		{tuple{src: a, dst: b}, tuple{src: b, dst: a}, []bool{true, false, false, false}},
		{tuple{src: b, dst: a}, tuple{src: a, dst: b}, []bool{false, true, false, false}},
		{to("10.66.0.1", 53), tuple{src: b}, []bool{false, false, true, false}},
		{to("10.66.0.4", 53), tuple{src: b}, []bool{false, false, false, false}},
		{to("10.66.0.4", 54), tuple{src: b}, []bool{false, false, false, true}},
		{tcp, tuple{src: b}, []bool{false, false, false, false}},
	} {
		var got []bool
		for _, q := range f.queries() {
			got = append(got, q.shows(tt.orig, tt.reply))
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%+v: %v, want %v", tt.orig, got, tt.want)
		}
		if everything := (tupleQuery{}); !everything.shows(tt.orig, tt.reply) {
			t.Error("a query for all does not ask for all")
		}
	}
}

// FuzzParseConnection: what comes is read as far as it goes.
func FuzzParseConnection(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{2, 0, 0, 0, 8, 0, 1, 0x80, 4, 0, 0, 0})
	f.Add([]byte{2, 0, 0, 0, 20, 0, 1, 0x80, 12, 0, 1, 0x80, 8, 0, 1, 0, 10, 66, 0, 2})
	f.Fuzz(func(t *testing.T, raw []byte) {
		orig, reply := parseConnection(raw)
		if again, _ := parseConnection(slices.Clone(raw)); again != orig {
			t.Errorf("%v, %v: %v", orig, reply, again)
		}
	})
}

// BenchmarkForgetConnectionsAtOnce: the end of fifty endpoints.
func BenchmarkForgetConnectionsAtOnce(b *testing.B) {
	for _, n := range []int{500, 5000} {
		b.Run(fmt.Sprintf("connections=%d", n), func(b *testing.B) {
			l := newLinks(b)
			crowd(b, n)
			b.ReportAllocs()
			for b.Loop() {
				var wg sync.WaitGroup
				for i := range 50 {
					wg.Go(func() {
						if err := l.ForgetConnections(b.Context(), Stale{Addr: netip.AddrFrom4([4]byte{10, 66, 0, byte(i)})}); err != nil {
							b.Error(err)
						}
					})
				}
				wg.Wait()
			}
		})
	}
}

// BenchmarkForgetConnections: the end of an endpoint that has no connection, beside
// those of others.
func BenchmarkForgetConnections(b *testing.B) {
	for _, n := range []int{500, 5000} {
		b.Run(fmt.Sprintf("connections=%d", n), func(b *testing.B) {
			l := newLinks(b)
			crowd(b, n)
			b.ReportAllocs()
			for b.Loop() {
				if err := l.ForgetConnections(b.Context(), Stale{Addr: netip.MustParseAddr("10.66.0.2")}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
