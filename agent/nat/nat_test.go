package nat

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
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
			ipt("-t", "nat", "-L", "-n")
			ipt("-t", "raw", "-L", "-n")
			ipt("-N", "DOCKER-USER")
			ipt("-A", "DOCKER-USER", "-j", "RETURN")
			ipt("-I", "FORWARD", "-j", "DOCKER-USER")
			before := saved(t, n)
			check := func(r Rules, want string) {
				t.Helper()
				if err := n.Set(t.Context(), r); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(tables(want), tables(saved(t, n))); diff != "" {
					t.Error(diff)
				}
			}
			check(rules(), want)
			check(rules(), want)

			// Nothing differs: nothing is written.
			working := n.cmd.restorePath
			n.cmd.restorePath = "/nonexistent"
			check(rules(), want)
			n.cmd.restorePath = working

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
			var less []string
			for line := range strings.Lines(want) {
				if !strings.Contains(line, "10.7.0.0") && !strings.Contains(line, "-i spgtest1 ") {
					less = append(less, line)
				}
			}
			check(one, strings.Join(less, ""))

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
				if err := n.Set(t.Context(), r); err != nil {
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
			if err := last.Set(t.Context(), rules()); err != nil {
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

// BenchmarkSet measures a Set that finds nothing to change.
func BenchmarkSet(b *testing.B) {
	n, err := New(slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = n.Clear(context.Background()) })
	for b.Loop() {
		if err := n.Set(b.Context(), rules()); err != nil {
			b.Fatal(err)
		}
	}
}
