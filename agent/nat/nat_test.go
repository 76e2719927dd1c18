package nat

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

func rules() Rules {
	return Rules{Uplinks: []string{"uplink", "eth1"}, Networks: []Network{
		{Subnet: netip.MustParsePrefix("10.7.0.0/16"), GatewayPort: "spgtest1", Metadata: true},
		{Subnet: netip.MustParsePrefix("10.6.0.0/16"), GatewayPort: "spgtest0"},
	}, Published: []Published{
		{Port: Port{Proto: "udp", HostIP: netip.IPv4Unspecified(), HostPort: 53}, To: netip.MustParseAddrPort("10.6.0.2:5353")},
		{Port: Port{Proto: "tcp", HostPort: 8080}, To: netip.MustParseAddrPort("10.6.0.2:80")},
		{Port: Port{Proto: "tcp", HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: 8080}, To: netip.MustParseAddrPort("10.6.0.3:81")},
	}}
}

const want = `*raw
:PREROUTING ACCEPT 
:OUTPUT ACCEPT 
:SOCKETPLANE-OUTPUT - 
:SOCKETPLANE-RAW - 
-A PREROUTING -j SOCKETPLANE-RAW
-A OUTPUT -j SOCKETPLANE-OUTPUT
-A SOCKETPLANE-OUTPUT -o spg+ -p icmp -m icmp --icmp-type 5 -j DROP
-A SOCKETPLANE-RAW -d 127.0.0.0/8 -i spg+ -j DROP
-A SOCKETPLANE-RAW -s 127.0.0.0/8 -i spg+ -j DROP
-A SOCKETPLANE-RAW -d 169.254.0.0/16 -i spgtest1 -j RETURN
-A SOCKETPLANE-RAW -d 169.254.0.0/16 -i spg+ -j DROP
-A SOCKETPLANE-RAW -d 168.63.129.16/32 -i spgtest1 -j RETURN
-A SOCKETPLANE-RAW -d 168.63.129.16/32 -i spg+ -p udp -m udp --dport 53 -j RETURN
-A SOCKETPLANE-RAW -d 168.63.129.16/32 -i spg+ -p tcp -m tcp --dport 53 -j RETURN
-A SOCKETPLANE-RAW -d 168.63.129.16/32 -i spg+ -j DROP
-A SOCKETPLANE-RAW -d 100.100.100.200/32 -i spgtest1 -j RETURN
-A SOCKETPLANE-RAW -d 100.100.100.200/32 -i spg+ -j DROP
-A SOCKETPLANE-RAW -d 192.0.0.192/32 -i spgtest1 -j RETURN
-A SOCKETPLANE-RAW -d 192.0.0.192/32 -i spg+ -j DROP
COMMIT
*nat
:PREROUTING ACCEPT 
:INPUT ACCEPT 
:OUTPUT ACCEPT 
:POSTROUTING ACCEPT 
:SOCKETPLANE-PORTS - 
:SOCKETPLANE-POSTROUTING - 
-A PREROUTING ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j SOCKETPLANE-PORTS
-A OUTPUT -m addrtype --dst-type LOCAL -j SOCKETPLANE-PORTS
-A POSTROUTING -j SOCKETPLANE-POSTROUTING
-A SOCKETPLANE-PORTS -d 127.0.0.1/32 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.6.0.3:81
-A SOCKETPLANE-PORTS -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.6.0.2:80
-A SOCKETPLANE-PORTS -p udp -m udp --dport 53 -j DNAT --to-destination 10.6.0.2:5353
-A SOCKETPLANE-POSTROUTING -p udp -m udp --dport 4789 -j RETURN
-A SOCKETPLANE-POSTROUTING -s 127.0.0.0/8 -o spg+ -j MASQUERADE
-A SOCKETPLANE-POSTROUTING -s 10.6.0.0/16 ! -o spg+ -j MASQUERADE
-A SOCKETPLANE-POSTROUTING -s 10.6.0.0/16 -d 10.6.0.0/16 -o spgtest0 -m conntrack --ctstate DNAT -j MASQUERADE
-A SOCKETPLANE-POSTROUTING -s 10.7.0.0/16 ! -o spg+ -j MASQUERADE
-A SOCKETPLANE-POSTROUTING -s 10.7.0.0/16 -d 10.7.0.0/16 -o spgtest1 -m conntrack --ctstate DNAT -j MASQUERADE
COMMIT
*filter
:INPUT ACCEPT 
:FORWARD ACCEPT 
:OUTPUT ACCEPT 
:DOCKER-USER - 
:SOCKETPLANE-FORWARD - 
:SOCKETPLANE-INPUT - 
-A INPUT -j SOCKETPLANE-INPUT
-A FORWARD -j SOCKETPLANE-FORWARD
-A FORWARD -j DOCKER-USER
-A DOCKER-USER -j SOCKETPLANE-FORWARD
-A DOCKER-USER -j RETURN
-A SOCKETPLANE-FORWARD -s 10.6.0.0/16 ! -i spg+ -j DROP
-A SOCKETPLANE-FORWARD -s 10.7.0.0/16 ! -i spg+ -j DROP
-A SOCKETPLANE-FORWARD -o spg+ -m conntrack --ctstate DNAT -j ACCEPT
-A SOCKETPLANE-FORWARD -i spg+ -o spg+ -j DROP
-A SOCKETPLANE-FORWARD -o spg+ -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A SOCKETPLANE-FORWARD -o spg+ -j DROP
-A SOCKETPLANE-FORWARD -i spg+ -o eth1 -j ACCEPT
-A SOCKETPLANE-FORWARD -i spg+ -o uplink -j ACCEPT
-A SOCKETPLANE-FORWARD -i spg+ -m conntrack --ctstate DNAT -j RETURN
-A SOCKETPLANE-FORWARD -i spg+ -j DROP
-A SOCKETPLANE-INPUT -i spg+ -m conntrack --ctstate DNAT -j RETURN
-A SOCKETPLANE-INPUT -d 10.6.0.0/16 -i spgtest0 -j RETURN
-A SOCKETPLANE-INPUT -d 10.7.0.0/16 -i spgtest1 -j RETURN
-A SOCKETPLANE-INPUT -d 10.6.0.0/16 -i spg+ -j DROP
-A SOCKETPLANE-INPUT -d 10.7.0.0/16 -i spg+ -j DROP
COMMIT
`

// tables sorts the tables of a saved ruleset: the backends print them in
// different orders.
func tables(s string) map[string]string {
	all := map[string]string{}
	for part := range strings.SplitSeq(s, "COMMIT\n") {
		name, _, _ := strings.Cut(part, "\n")
		if name == "*filter" || name == "*nat" || name == "*raw" {
			all[name] = part
		}
	}
	return all
}

func TestSet(t *testing.T) {
	for _, backend := range backends {
		t.Run(backend, func(t *testing.T) {
			n := newNAT(t, backend)
			ipt := func(args ...string) { t.Helper(); do(t, append([]string{"iptables-" + backend, "-w"}, args...)...) }
			// All tables exist from here on, so that before and after compare.
			for _, in := range [][2]string{{"nat", "POSTROUTING"}, {"raw", "PREROUTING"}} {
				ipt("-t", in[0], "-A", in[1], "-j", "RETURN")
				ipt("-t", in[0], "-D", in[1], "-j", "RETURN")
			}
			ipt("-N", "DOCKER-USER")
			ipt("-A", "DOCKER-USER", "-j", "RETURN")
			ipt("-I", "FORWARD", "-j", "DOCKER-USER")
			before := saved(t, n)
			shows := func(want string) {
				t.Helper()
				if diff := cmp.Diff(tables(want), tables(saved(t, n))); diff != "" {
					t.Error(diff)
				}
			}
			check := func(r Rules, want string) {
				t.Helper()
				if err := n.Compare(t.Context(), r); err != nil {
					t.Fatal(err)
				}
				shows(want)
			}
			check(rules(), want)
			check(rules(), want)

			// Nothing differs: nothing is written, and Set runs nothing at all.
			working := n.cmd
			n.cmd.restorePath = "/nonexistent"
			if err := n.Compare(t.Context(), rules()); err != nil {
				t.Error(err)
			}
			n.cmd.savePath = "/nonexistent"
			if err := n.Set(t.Context(), rules()); err != nil {
				t.Error(err)
			}
			// What differs is written without a look.
			n.cmd.restorePath = working.restorePath
			less := rules()
			less.Published = less.Published[:2]
			without127 := strings.Replace(want, "-A SOCKETPLANE-PORTS -d 127.0.0.1/32 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.6.0.3:81\n", "", 1)
			if err := n.Set(t.Context(), less); err != nil {
				t.Fatal(err)
			}
			n.cmd = working
			shows(without127)
			// Where that fails it looks, and writes what is missing.
			n.cmd.restorePath = failOnce(t, working.restorePath)
			if err := n.Set(t.Context(), rules()); err != nil {
				t.Error(err)
			}
			n.cmd = working
			shows(want)
			// What cannot be written is not taken for written.
			n.cmd.restorePath = "/nonexistent"
			if err := n.Set(t.Context(), less); err == nil {
				t.Error("it was written by a program that is not there")
			}
			n.cmd = working
			if err := n.Set(t.Context(), less); err != nil {
				t.Error(err)
			}
			shows(without127)
			// Nor is what was cleared taken for there.
			if err := n.Clear(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := n.Set(t.Context(), rules()); err != nil {
				t.Error(err)
			}
			shows(want)

			// Docker starts and comes first; a rule is lost; a jump is doubled.
			ipt("-D", "FORWARD", "-j", "DOCKER-USER")
			ipt("-I", "FORWARD", "-j", "DOCKER-USER")
			ipt("-D", forwardChain, "1")
			ipt("-A", "INPUT", "-j", inputChain)
			ipt("-t", "nat", "-F", "POSTROUTING")
			ipt("-t", "nat", "-A", "OUTPUT", "-p", "tcp", "-j", portsChain) // as another version of ours might
			check(rules(), want)

			one := rules()
			one.Networks = one.Networks[1:]
			var fewer []string
			for line := range strings.Lines(want) {
				if !strings.Contains(line, "10.7.0.0") && !strings.Contains(line, "-i spgtest1 ") {
					fewer = append(fewer, line)
				}
			}
			check(one, strings.Join(fewer, ""))

			for range 2 {
				if err := n.Clear(t.Context()); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(before, saved(t, n)); diff != "" {
					t.Error(diff)
				}
			}
		})
	}
}

// failOnce makes a program that fails the first time and is the given one from then on.
func failOnce(t *testing.T, program string) string {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "program")
	script := fmt.Sprintf("#!/bin/sh\nmkdir %s/failed 2>/dev/null && exit 1\nexec %s \"$@\"\n", dir, program)
	if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestWrote: the kernel names our own program where it tells of what it wrote, and
// nobody else's.
func TestWrote(t *testing.T) {
	n := newNAT(t, "nft")
	group, err := nl.Subscribe(unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES)
	if err != nil {
		t.Fatal(err)
	}
	defer group.Close()
	timeout := unix.NsecToTimeval(int64(20 * time.Second))
	if err := group.SetReceiveTimeout(&timeout); err != nil {
		t.Fatal(err)
	}
	// writers gives who wrote what comes until a rule with this text has come.
	writers := func(until string) map[bool]int {
		t.Helper()
		counts := map[bool]int{}
		for {
			messages, _, err := group.Receive()
			if err != nil {
				t.Fatal(err)
			}
			last := false
			for _, m := range messages {
				counts[n.Wrote(m.Header.Pid)]++
				last = last || bytes.Contains(m.Data, []byte(until))
			}
			if last {
				return counts
			}
		}
	}
	if err := n.Set(t.Context(), rules()); err != nil {
		t.Fatal(err)
	}
	if got := writers(inputChain); got[true] == 0 || got[false] != 0 {
		t.Errorf("of our own first write: %v", got)
	}
	less := rules()
	less.Networks = less.Networks[1:]
	if err := n.Set(t.Context(), less); err != nil {
		t.Fatal(err)
	}
	do(t, "iptables-nft", "-w", "-N", "FOREIGN")
	if got := writers("FOREIGN"); got[true] == 0 || got[false] == 0 {
		t.Errorf("of our own write and a foreign one: %v", got)
	}
	do(t, "iptables-nft", "-w", "-X", "FOREIGN")
	if got := writers("FOREIGN"); got[true] != 0 {
		t.Errorf("of a foreign write: %v", got)
	}
}

// TestPolicy shows that the policy of FORWARD is set where it is wanted, that what
// others have in the chain stays, and that it is left alone otherwise.
func TestPolicy(t *testing.T) {
	for _, backend := range backends {
		t.Run(backend, func(t *testing.T) {
			n := newNAT(t, backend)
			do(t, "iptables-"+backend, "-w", "-A", "FORWARD", "-i", "lo", "-j", "ACCEPT")
			check := func(deny bool, want string) {
				t.Helper()
				r := rules()
				r.DenyForward = deny
				if err := n.Compare(t.Context(), r); err != nil {
					t.Fatal(err)
				}
				got := saved(t, n)
				if !strings.Contains(got, ":FORWARD "+want+" ") || !strings.Contains(got, "-A FORWARD -i lo -j ACCEPT\n") {
					t.Errorf("want policy %s:\n%s", want, got)
				}
			}
			policy := func(want string) {
				t.Helper()
				if got, err := n.ForwardPolicy(t.Context()); err != nil || got != want {
					t.Errorf("policy %q, %v; want %s", got, err, want)
				}
			}
			policy("ACCEPT")
			check(false, "ACCEPT")
			check(true, "DROP")
			policy("DROP")
			do(t, "iptables-"+backend, "-w", "-P", "FORWARD", "ACCEPT") // a firewall is reloaded
			check(true, "DROP")
			check(false, "DROP")
			do(t, "iptables-"+backend, "-w", "-P", "FORWARD", "ACCEPT")
			denied := rules() // a policy that is wanted from now on is set without a call for a comparison
			denied.DenyForward = true
			if err := n.Set(t.Context(), denied); err != nil {
				t.Fatal(err)
			}
			policy("DROP")
			if err := n.Clear(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := saved(t, n); !strings.Contains(got, ":FORWARD DROP ") {
				t.Errorf("Clear changes the policy, which may be somebody else's:\n%s", got)
			}
			for range 2 {
				if err := n.AllowForward(t.Context()); err != nil {
					t.Fatal(err)
				}
				if got := saved(t, n); !strings.Contains(got, ":FORWARD ACCEPT ") || !strings.Contains(got, "-A FORWARD -i lo -j ACCEPT\n") {
					t.Errorf("after AllowForward:\n%s", got)
				}
			}
		})
	}
}

func TestSetParallel(t *testing.T) {
	// Several agents' worth of hands, each with a lock of its own.
	for _, backend := range backends {
		t.Run(backend, func(t *testing.T) {
			var wg sync.WaitGroup
			var last *NAT
			for range 4 {
				n := newNAT(t, backend)
				last = n
				wg.Go(func() {
					if err := n.Set(t.Context(), rules()); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if err := last.Compare(t.Context(), rules()); err != nil {
				t.Fatal(err)
			}
			if got := strings.Count(saved(t, last), "-A FORWARD -j "+forwardChain+"\n"); got != 1 {
				t.Errorf("%d jumps", got)
			}
		})
	}
}

func TestRefuses(t *testing.T) {
	n := newNAT(t, "nft")
	subnet := netip.MustParsePrefix("10.6.0.0/16")
	for _, r := range []Rules{
		{Networks: []Network{{GatewayPort: "spgx"}}},
		{Networks: []Network{{Subnet: netip.MustParsePrefix("fd00::/64"), GatewayPort: "spgx"}}},
		{Networks: []Network{{Subnet: netip.MustParsePrefix("10.6.0.1/16"), GatewayPort: "spgx"}}},
		{Networks: []Network{{Subnet: netip.MustParsePrefix("0.0.0.0/0"), GatewayPort: "spgx"}}},
		{Networks: []Network{{Subnet: subnet, GatewayPort: "eth0"}}},
		{Networks: []Network{{Subnet: subnet, GatewayPort: "spgx\nCOMMIT"}}},
		{Networks: []Network{{Subnet: subnet, GatewayPort: "spg0123456789abcdef"}}},
		{GatewayPrefix: "+"},
		{Uplinks: []string{"eth0 -j ACCEPT"}},
		{Uplinks: []string{"+"}},
		{Uplinks: []string{"eth+"}},
		{Uplinks: []string{""}},
		{Uplinks: []string{"spgtest0"}},
		{Published: []Published{{Port: Port{Proto: "tcp", HostPort: 80}}}},
		{Published: []Published{{Port: Port{Proto: "tcp"}, To: netip.MustParseAddrPort("10.6.0.2:80")}}},
		{Published: []Published{{Port: Port{Proto: "tcp", HostPort: 80}, To: netip.MustParseAddrPort("10.6.0.2:0")}}},
		{Published: []Published{{Port: Port{Proto: "tcp -j DROP", HostPort: 80}, To: netip.MustParseAddrPort("10.6.0.2:80")}}},
		{Published: []Published{{Port: Port{Proto: "tcp", HostPort: 80, HostIP: netip.IPv6Loopback()}, To: netip.MustParseAddrPort("10.6.0.2:80")}}},
		{Published: []Published{{Port: Port{Proto: "tcp", HostPort: 80}, To: netip.MustParseAddrPort("[fd00::1]:80")}}},
	} {
		if err := n.Set(t.Context(), r); err == nil {
			t.Errorf("%+v was taken", r)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := n.Set(ctx, rules()); !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v", err)
	}
}

func TestMissingPrograms(t *testing.T) {
	for _, path := range []string{"/usr/sbin/iptables-save", "/sbin/iptables-save"} {
		if _, err := os.Stat(path); err == nil {
			// They are found although the PATH lacks them.
			t.Setenv("PATH", t.TempDir())
			if _, err := New(nil); err != nil {
				t.Error(err)
			}
			break
		}
	}
	_, err := findIn("/nonexistent/")
	if !errors.Is(err, ErrNoIptables) {
		t.Errorf("err = %v", err)
	}
}

// BenchmarkSet measures calls with many published ports: one that finds nothing to
// change, one that changes a port, and a comparison that finds nothing.
func BenchmarkSet(b *testing.B) {
	for _, ports := range []int{500, 5000} {
		var all [2]Rules // the second has another last port
		for i := range all {
			all[i] = rules()
			for p := range ports {
				to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 6, byte(p >> 8), byte(p)}), 80)
				all[i].Published = append(all[i].Published, Published{Port: Port{Proto: "tcp", HostPort: uint16(10000 + p)}, To: to})
			}
			all[i].Published[ports-1].HostPort += uint16(10000 * i)
		}
		for _, kind := range []struct {
			name string
			call func(n *NAT, i int) error
		}{
			{"nothing", func(n *NAT, _ int) error { return n.Set(b.Context(), all[0]) }},
			{"port", func(n *NAT, i int) error { return n.Set(b.Context(), all[i%2]) }},
			{"compare", func(n *NAT, _ int) error { return n.Compare(b.Context(), all[0]) }},
		} {
			b.Run(fmt.Sprintf("ports=%d/%s", ports, kind.name), func(b *testing.B) {
				n, err := New(slog.New(slog.DiscardHandler))
				if err != nil {
					b.Fatal(err)
				}
				b.Cleanup(func() { _ = n.Clear(context.Background()) })
				if err := n.Set(b.Context(), all[0]); err != nil {
					b.Fatal(err)
				}
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					if err := kind.call(n, i); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
