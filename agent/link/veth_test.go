package link

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestNames(t *testing.T) {
	for _, name := range []string{HostName("a"), PeerName(strings.Repeat("x", 500)), GatewayName("")} {
		if len(name) != 14 || checkName(name) != nil {
			t.Errorf("%q is no good interface name", name)
		}
	}
	if HostName("a") == HostName("b") {
		t.Error("two ids, one name")
	}
	if host, ok := hostOf(PeerName("a")); !ok || host != HostName("a") {
		t.Errorf("hostOf = %q, %v", host, ok)
	}
	for _, bad := range []string{"", ".", "..", "a/b", "a b", "a%d", "a:b", "a\x00b", "ünï", strings.Repeat("x", 16)} {
		if checkName(bad) == nil {
			t.Errorf("name %q was not refused", bad)
		}
	}
}

// txChecksum reads whether a link of the host leaves checksums to hardware.
func txChecksum(t *testing.T, name string) bool {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	v := ethtoolValue{cmd: unix.ETHTOOL_GTXCSUM}
	if err := ethtool(fd, name, &v); err != nil {
		t.Fatal(err)
	}
	return v.data != 0
}

func chains(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("nft", "list", "ruleset").CombinedOutput()
	if err != nil {
		t.Fatalf("nft: %v: %s", err, out)
	}
	return string(out)
}

func sysctl(t *testing.T, name string) string {
	t.Helper()
	raw, err := os.ReadFile("/proc/sys/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(raw))
}

func TestEnsureVeth(t *testing.T) {
	l, c := newLinks(t), here(t)
	for _, userspace := range []bool{true, false} {
		t.Run(fmt.Sprintf("userspace=%v", userspace), func(t *testing.T) {
			v := veth(t, l, t.Name())
			v.Userspace = userspace
			var first int
			for round := range 3 {
				if err := l.EnsureVeth(t.Context(), v); err != nil {
					t.Fatal(err)
				}
				host, err := c.mustFind(v.Host)
				if err != nil {
					t.Fatal(err)
				}
				peer, err := c.mustFind(v.Peer)
				if err != nil {
					t.Fatal(err)
				}
				if round == 0 {
					first = host.Attrs().Index
				}
				if host.Attrs().Index != first {
					t.Error("the pair was made anew")
				}
				if host.Attrs().MTU != 1450 || peer.Attrs().MTU != 1450 || peer.Attrs().HardwareAddr.String() != v.MAC {
					t.Errorf("MTU %d and %d, MAC %s", host.Attrs().MTU, peer.Attrs().MTU, peer.Attrs().HardwareAddr)
				}
				if host.Attrs().RawFlags&unix.IFF_UP == 0 || peer.Attrs().RawFlags&unix.IFF_UP != 0 {
					t.Error("the host's end must be up and the peer down")
				}
				if got := sysctl(t, "net/ipv6/conf/"+v.Host+"/disable_ipv6"); got != "1" {
					t.Errorf("disable_ipv6 = %s", got)
				}
				if txChecksum(t, v.Peer) == userspace {
					t.Errorf("tx checksum offload is %v", !userspace)
				}
				if strings.Contains(chains(t), v.Host) != userspace {
					t.Errorf("ingress chains:\n%s", chains(t))
				}
				// What a stray hand could change is put right in the next round.
				if err := errors.Join(c.LinkSetMTU(peer, 1400), c.LinkSetDown(host)); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 {
				if err := l.DeleteVeth(t.Context(), v.Host); err != nil {
					t.Fatal(err)
				}
			}
			if got := names(t, c); len(got) != 0 {
				t.Errorf("left: %v", got)
			}
			l.Close()
			if strings.Contains(chains(t), v.Host) {
				t.Errorf("a chain is left:\n%s", chains(t))
			}
		})
	}
}

func TestEnsureVethAfterDatapathChange(t *testing.T) {
	l := newLinks(t)
	v := veth(t, l, t.Name())
	for _, userspace := range []bool{true, false, true} {
		v.Userspace = userspace
		if err := l.EnsureVeth(t.Context(), v); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(chains(t), v.Host) != userspace {
			t.Errorf("userspace=%v, ingress chains:\n%s", userspace, chains(t))
		}
	}
}

// TestVethAgain deletes a pair and makes it anew at once, as a restart of a
// container does: the chain of the new pair must not go with the old one.
func TestVethAgain(t *testing.T) {
	l := newLinks(t)
	v := veth(t, l, t.Name())
	v.Userspace = true
	for range 10 {
		if err := l.EnsureVeth(t.Context(), v); err != nil {
			t.Fatal(err)
		}
		l.Close()
		if !strings.Contains(chains(t), v.Host) {
			t.Fatal("the new pair has no chain")
		}
		if err := l.DeleteVeth(t.Context(), v.Host); err != nil {
			t.Fatal(err)
		}
	}
}

func TestEnsureVethRepairs(t *testing.T) {
	l, c := newLinks(t), here(t)
	v := veth(t, l, t.Name())
	ns, other := newNamespace(t), newNamespace(t)
	ensure := func(v Veth) int {
		t.Helper()
		if err := l.EnsureVeth(t.Context(), v); err != nil {
			t.Fatal(err)
		}
		host, err := c.mustFind(v.Host)
		if err != nil {
			t.Fatal(err)
		}
		return host.Attrs().Index
	}
	first := ensure(v)
	if err := l.Configure(t.Context(), v.Peer, ns, config()); err != nil {
		t.Fatal(err)
	}
	for _, check := range []struct {
		ns   string
		want bool
	}{{ns, true}, {other, false}, {"/nowhere", false}} {
		if got, err := l.PeerIn(v.Host, check.ns); err != nil || got != check.want {
			t.Errorf("PeerIn(%q) = %v, %v", check.ns, got, err)
		}
	}
	v.NetNS, v.IfName = ns, "eth0"
	if ensure(v) != first {
		t.Error("a pair that serves its container was made anew")
	}
	v.NetNS = other
	second := ensure(v)
	if second == first {
		t.Error("a pair whose peer is in a strange namespace was kept")
	}
	if got := names(t, inside(t, ns)); len(got) != 0 {
		t.Errorf("left in the old namespace: %v", got)
	}
	if err := l.Configure(t.Context(), v.Peer, other, config()); err != nil {
		t.Fatal(err)
	}
	v.NetNS, v.IfName = "", ""
	if ensure(v) == second {
		t.Error("a pair whose peer is gone was kept")
	}
	if state, err := l.Inspect(v.Host); err != nil || !state.Exists || !state.Up || state.PeerMoved || state.MTU != 1450 {
		t.Errorf("state %+v, %v", state, err)
	}
}

func TestEnsureVethKeepsStrangers(t *testing.T) {
	l, c := newLinks(t), here(t)
	v := veth(t, l, t.Name())
	attrs := netlink.NewLinkAttrs()
	attrs.Name = v.Peer
	tap := &netlink.Tuntap{LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TAP}
	if err := c.LinkAdd(tap); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.LinkDel(tap) }()
	if err := l.EnsureVeth(t.Context(), v); !errors.Is(err, ErrExists) {
		t.Errorf("err = %v", err)
	}
	if err := l.DeleteVeth(t.Context(), v.Peer); !errors.Is(err, ErrExists) {
		t.Errorf("err = %v", err)
	}
	if diff := cmp.Diff([]string{v.Peer}, names(t, c)); diff != "" {
		t.Error(diff)
	}
	v.MAC = "nonsense"
	if err := l.EnsureVeth(t.Context(), v); err == nil {
		t.Error("a MAC of nonsense was taken")
	}
}

func TestParallel(t *testing.T) {
	l, c := newLinks(t), here(t)
	const many = 100
	var wg sync.WaitGroup
	for i := range many {
		id, ns := fmt.Sprintf("%s-%d", t.Name(), i), newNamespace(t)
		v := veth(t, l, id)
		v.Userspace = i%2 == 0
		if i%4 < 2 {
			v.NetNS, v.IfName = ns, "eth0"
		}
		wg.Go(func() {
			if err := errors.Join(l.EnsureVeth(t.Context(), v), l.Configure(t.Context(), v.Peer, ns, config())); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	hosts, err := l.HostVeths()
	if err != nil || len(hosts) != many {
		t.Fatalf("%d host ends, %v", len(hosts), err)
	}
	for _, host := range hosts {
		wg.Go(func() {
			if err := l.DeleteVeth(t.Context(), host); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := names(t, c); len(got) != 0 {
		t.Errorf("left: %v", got)
	}
	l.Close()
	if strings.Contains(chains(t), "hook") {
		t.Errorf("left:\n%s", chains(t))
	}
}

// BenchmarkVeth measures what an attach costs here. The median tells more than
// the mean: on a busy machine the kernel's waits stand out.
func BenchmarkVeth(b *testing.B) {
	l := newLinks(b)
	for _, c := range []struct{ born, userspace bool }{{true, false}, {true, true}, {false, true}} {
		b.Run(fmt.Sprintf("userspace=%v/born=%v", c.userspace, c.born), func(b *testing.B) {
			var attach, detach []time.Duration
			for b.Loop() {
				ns, id := newNamespace(b), fmt.Sprint(b.Name(), len(attach))
				v := Veth{Host: HostName(id), Peer: PeerName(id), MAC: "02:42:0a:06:00:02", MTU: 1450, Userspace: c.userspace}
				if c.born {
					v.NetNS, v.IfName = ns, "eth0"
				}
				begin := time.Now()
				if err := errors.Join(l.EnsureVeth(b.Context(), v), l.Configure(b.Context(), v.Peer, ns, config())); err != nil {
					b.Fatal(err)
				}
				attach = append(attach, time.Since(begin))
				begin = time.Now()
				if err := l.DeleteVeth(b.Context(), v.Host); err != nil {
					b.Fatal(err)
				}
				detach = append(detach, time.Since(begin))
			}
			for unit, all := range map[string][]time.Duration{"attach": attach, "detach": detach} {
				slices.Sort(all)
				b.ReportMetric(float64(all[len(all)/2].Microseconds()), unit+"-p50-us")
				b.ReportMetric(float64(all[len(all)*95/100].Microseconds()), unit+"-p95-us")
			}
		})
	}
}
