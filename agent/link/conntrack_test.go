package link

import (
	"net"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
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
