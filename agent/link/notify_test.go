package link

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// run runs a program on the host of the tests.
func run(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// TestWatchHost takes away, one by one, what is set on the host for a network, and
// what is not ours.
func TestWatchHost(t *testing.T) {
	l := newLinks(t)
	c := here(t)
	gateway := GatewayName("watched")
	addDummy(t, c, gateway, "10.6.0.1/16")
	addDummy(t, c, "other", "10.9.0.1/16")
	v := veth(t, l, "watched")
	v.Userspace = true
	if err := l.EnsureVeth(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	run(t, "sysctl", "-qw", "net.ipv4.ip_forward=1")
	run(t, "ip", "route", "add", "10.66.0.0/16", "dev", gateway)
	run(t, "ip", "route", "add", "10.99.0.0/16", "dev", "other")
	run(t, "iptables-nft", "-w", "-N", "SOCKETPLANE-TEST")
	run(t, "iptables-nft", "-w", "-I", "FORWARD", "-j", "SOCKETPLANE-TEST")
	run(t, "iptables-nft", "-w", "-N", "OTHER")
	t.Cleanup(func() {
		for _, args := range [][]string{{"-F"}, {"-X"}} {
			_ = exec.Command("iptables-nft", append([]string{"-w"}, args...)...).Run()
		}
	})

	// What a process writes that works for us is no news.
	var ourWriter atomic.Uint32
	ours := func(port uint32) bool { return port != 0 && port == ourWriter.Load() }
	news := make(chan syscall.NetlinkMessage, 4096)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.watchHost(ctx, ours, func(m syscall.NetlinkMessage) { news <- m })
	}()
	defer func() { cancel(); <-done }()
	marks := 0
	// heard says whether there was news since the last call, however slow the machine is:
	// it makes a foreign change of each kind, which must arrive, and nothing that was
	// done before can come after it.
	heard := func(within time.Duration) (other, arrived bool) {
		marks++
		table, metric := fmt.Sprint(markedTable, marks), fmt.Sprint(markedMetric+marks)
		run(t, "nft", "add", "table", "ip", table)
		run(t, "nft", "delete", "table", "ip", table)
		run(t, "ip", "route", "add", "unreachable", "default", "metric", metric)
		run(t, "ip", "route", "del", "unreachable", "default", "metric", metric)
		var rule, route bool
		for deadline := time.After(within); !rule || !route; {
			select {
			case m := <-news:
				switch mark := markOf(m); {
				case mark == 0:
					other = true
				case mark < marks:
				case m.Header.Type == unix.RTM_DELROUTE:
					route = true
				case m.Header.Type != unix.RTM_NEWROUTE:
					rule = true
				}
			case <-deadline:
				return other, false
			}
		}
		return other, true
	}
	want := func(what string, want bool) {
		t.Helper()
		if got, arrived := heard(60 * time.Second); !arrived {
			t.Fatalf("%s: the change after it never arrived", what)
		} else if got != want {
			t.Errorf("%s: heard %v, want %v", what, got, want)
		}
	}
	for tries := 0; ; tries++ { // until both subscriptions are there
		if _, arrived := heard(time.Second); arrived {
			break
		} else if tries == 60 {
			t.Fatal("nothing is heard")
		}
	}
	for _, mine := range []bool{true, false} {
		cmd := exec.CommandContext(t.Context(), "iptables-nft-restore", "--noflush", "--wait")
		in, err := cmd.StdinPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		if ourWriter.Store(0); mine {
			ourWriter.Store(uint32(cmd.Process.Pid))
		}
		_, err = io.WriteString(in, "*filter\n:SOCKETPLANE-TEST - [0:0]\n-A SOCKETPLANE-TEST -j RETURN\nCOMMIT\n")
		if err := errors.Join(err, in.Close(), cmd.Wait()); err != nil {
			t.Fatal(err)
		}
		want(fmt.Sprintf("our own rewrite %v", mine), !mine)
	}
	for _, change := range []struct {
		args []string
		ours bool
	}{
		{[]string{"iptables-nft", "-w", "-A", "SOCKETPLANE-TEST", "-j", "ACCEPT"}, true},
		{[]string{"iptables-nft", "-w", "-F", "SOCKETPLANE-TEST"}, true},
		{[]string{"iptables-nft", "-w", "-I", "FORWARD", "-j", "ACCEPT"}, true}, // before our jump
		{[]string{"iptables-nft", "-w", "-D", "FORWARD", "-j", "ACCEPT"}, false},
		{[]string{"iptables-nft", "-w", "-N", "DOCKER-USER"}, true}, // our jump is missing in it
		{[]string{"iptables-nft", "-w", "-A", "OTHER", "-j", "ACCEPT"}, false},
		{[]string{"iptables-nft", "-w", "-F", "OTHER"}, false},
		{[]string{"iptables-nft", "-w", "-D", "FORWARD", "-j", "SOCKETPLANE-TEST"}, true},
		{[]string{"iptables-nft", "-w", "-X", "SOCKETPLANE-TEST"}, true},
		{[]string{"iptables-nft", "-w", "-X", "OTHER"}, false},
		{[]string{"nft", "delete", "chain", "netdev", "socketplane", v.Host}, true},
		{[]string{"nft", "add", "table", "ip", "other"}, false},
		{[]string{"nft", "add", "table", "ip", "socketplane"}, false},
		{[]string{"nft", "add", "chain", "ip", "socketplane", "input"}, false},
		{[]string{"nft", "insert", "rule", "ip", "socketplane", "input", "accept"}, true},
		{[]string{"nft", "delete", "table", "ip", "other"}, false},
		{[]string{"nft", "add", "table", "ip", "docker-bridges"}, false},
		{[]string{"nft", "add", "chain", "ip", "docker-bridges", "filter-forward-in__br-1"}, true},
		{[]string{"nft", "add", "rule", "ip", "docker-bridges", "filter-forward-in__br-1", "drop"}, false},
		{[]string{"nft", "delete", "table", "ip", "docker-bridges"}, true},
		{[]string{"nft", "flush", "ruleset"}, true},
		{[]string{"sysctl", "-qw", "net.ipv4.ip_forward=0"}, true},
		{[]string{"ip", "route", "del", "10.99.0.0/16"}, false},
		{[]string{"ip", "route", "del", "10.66.0.0/16"}, true},
		{[]string{"ip", "addr", "del", "10.9.0.1/16", "dev", "other"}, false},
		{[]string{"ip", "addr", "del", "10.6.0.1/16", "dev", gateway}, true},
		{[]string{"ip", "link", "set", "other", "down"}, false},
	} {
		run(t, change.args...)
		want(strings.Join(change.args, " "), change.ours)
	}
	// The end of an endpoint, by our own hand, is no news.
	if err := l.DeleteVeth(t.Context(), v.Host); err != nil {
		t.Fatal(err)
	}
	l.sweep()
	want("the end of an endpoint", false)
	// This comes last: the kernel may tell it a second time, somewhat later.
	run(t, "ip", "link", "set", gateway, "down")
	want("a gateway is set down", true)
}

// The changes with which TestWatchHost ends each row carry a number.
const (
	markedTable  = ourChains + "mark"
	markedMetric = 470000
)

// markOf gives the number of such a change; 0: it is another.
func markOf(m syscall.NetlinkMessage) (mark int) {
	if _, rest, ok := bytes.Cut(m.Data, []byte(markedTable)); ok {
		number, _, _ := bytes.Cut(rest, []byte{0})
		mark, _ = strconv.Atoi(string(number))
		return mark
	}
	if m.Header.Type != unix.RTM_NEWROUTE && m.Header.Type != unix.RTM_DELROUTE {
		return 0
	}
	attrs, err := nl.ParseRouteAttr(m.Data[unix.SizeofRtMsg:])
	for _, a := range attrs {
		if err == nil && a.Attr.Type == unix.RTA_PRIORITY && len(a.Value) == 4 {
			mark = int(binary.NativeEndian.Uint32(a.Value)) - markedMetric
		}
	}
	return max(0, mark)
}

// TestEnsureHostEnds takes from a host's end what it needs.
func TestEnsureHostEnds(t *testing.T) {
	l := newLinks(t)
	for _, userspace := range []bool{true, false} {
		v := veth(t, l, "ends")
		v.Userspace = userspace
		if err := l.EnsureVeth(t.Context(), v); err != nil {
			t.Fatal(err)
		}
		state := func() string {
			var all []string
			for _, key := range []string{"ipv4/conf/" + v.Host + "/arp_ignore", "ipv4/conf/" + v.Host + "/rp_filter", "ipv6/conf/" + v.Host + "/disable_ipv6"} {
				value, err := os.ReadFile("/proc/sys/net/" + key)
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, key+"="+strings.TrimSpace(string(value)))
			}
			s, err := l.Inspect(v.Host)
			if err != nil {
				t.Fatal(err)
			}
			chain := exec.CommandContext(t.Context(), "nft", "list", "chain", "netdev", ingressTable, v.Host)
			out, _ := chain.Output() // none is empty
			return strings.Join(all, " ") + "\n" + map[bool]string{true: "up", false: "down"}[s.Up] + "\n" + string(out)
		}
		want := state()
		if strings.Contains(want, "policy drop") != userspace {
			t.Fatalf("userspace %v: %s", userspace, want)
		}
		for _, spoil := range [][]string{
			{"nft", "flush", "ruleset"},
			{"ip", "link", "set", v.Host, "down"},
			{"sysctl", "-qw", "net.ipv4.conf." + v.Host + ".arp_ignore=0"},
			{"sysctl", "-qw", "net.ipv4.conf." + v.Host + ".rp_filter=0"},
			{"sysctl", "-qw", "net.ipv6.conf." + v.Host + ".disable_ipv6=0"},
		} {
			run(t, spoil...)
			if state() == want && (userspace || spoil[0] != "nft") {
				t.Errorf("%s changes nothing", strings.Join(spoil, " "))
			}
			ends := []HostEnd{{Name: v.Host, Userspace: userspace}, {Name: "spvnothere", Userspace: userspace}}
			if err := l.EnsureHostEnds(t.Context(), ends); err != nil {
				t.Fatal(err)
			}
			if got := state(); got != want {
				t.Errorf("after %s:\n%s\nwant\n%s", strings.Join(spoil, " "), got, want)
			}
		}
		if err := l.DeleteVeth(t.Context(), v.Host); err != nil {
			t.Fatal(err)
		}
		l.sweep()
	}
}

// TestUplinks has one of each kind that this kernel can make.
func TestUplinks(t *testing.T) {
	l := newLinks(t)
	c := here(t)
	addDummy(t, c, "vtep0", "198.18.0.1/24")
	addDummy(t, c, "out0", "203.0.113.2/24")
	addDummy(t, c, "guest0", "192.168.7.1/24")
	addDummy(t, c, HostName("x"))
	addDummy(t, c, GatewayName("x"), "10.6.0.1/16")
	for _, args := range [][]string{
		{"ip", "route", "add", "default", "via", "203.0.113.1", "metric", "100"},
		{"ip", "tuntap", "add", "vpn0", "mode", "tun"},
		{"ip", "tuntap", "add", "vm0", "mode", "tap"},
		{"ip", "link", "add", "docker0", "type", "bridge"},
		{"ip", "link", "set", "xguest0", "master", "docker0"},
	} {
		run(t, args...)
	}
	t.Cleanup(func() {
		for _, name := range []string{"vpn0", "vm0", "docker0"} {
			_ = exec.Command("ip", "link", "del", name).Run()
		}
	})
	up, err := l.Uplinks(t.Context(), netip.MustParseAddr("198.18.0.1"))
	if err != nil {
		t.Fatal(err)
	}
	if up.Silent || !slices.Equal(up.Carriers(), []string{"vtep0"}) {
		t.Errorf("packets to the tunnel address come by %q", up.Carriers())
	}
	if want := []string{"out0", "vpn0", "vtep0"}; up.Underlay != "vtep0" || !slices.Equal(up.Names, want) {
		t.Errorf("got %+v, want vtep0 and %q", up, want)
	}
	subnets := []Subnet{
		{"guest0", netip.MustParsePrefix("192.168.7.0/24")}, {"out0", netip.MustParsePrefix("203.0.113.0/24")}, {"vtep0", netip.MustParsePrefix("198.18.0.0/24")},
	}
	if !slices.Equal(up.Subnets, subnets) {
		t.Errorf("subnets %v, want %v", up.Subnets, subnets)
	}
	up, err = l.Uplinks(t.Context(), netip.MustParseAddr("198.18.0.99"))
	if err != nil || up.Underlay != "" || !slices.Equal(up.Names, []string{"out0", "vpn0"}) {
		t.Errorf("without the tunnel address: %+v, %v", up, err)
	}
}

// TestSilentUplink: no packet comes by an interface that only has an address.
func TestSilentUplink(t *testing.T) {
	l := newLinks(t)
	addDummy(t, here(t), "out0", "203.0.113.2/24")
	run(t, "ip", "route", "add", "default", "via", "203.0.113.1", "metric", "100")
	run(t, "ip", "addr", "add", "198.18.7.1/32", "dev", "lo")
	t.Cleanup(func() { _ = exec.Command("ip", "addr", "del", "198.18.7.1/32", "dev", "lo").Run() })
	addrs := map[string]string{"lo": "198.18.7.1"}
	if exec.Command("ip", "link", "add", "dummy7", "type", "dummy").Run() == nil { // not every kernel has it
		t.Cleanup(func() { _ = exec.Command("ip", "link", "del", "dummy7").Run() })
		run(t, "ip", "addr", "add", "198.18.7.2/32", "dev", "dummy7")
		addrs["dummy7"] = "198.18.7.2"
	}
	for name, addr := range addrs {
		up, err := l.Uplinks(t.Context(), netip.MustParseAddr(addr))
		if err != nil || !up.Silent || up.Underlay != name || !slices.Equal(up.Carriers(), []string{"out0"}) {
			t.Errorf("%s on %s: %+v, %v", addr, name, up, err)
		}
	}
}

// TestBridgesWithCards: a bridge leads out when a port of it does.
func TestBridgesWithCards(t *testing.T) {
	for _, k := range []struct {
		link netlink.Link
		out  bool
	}{
		{&netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}}, true},
		{&netlink.Vlan{LinkAttrs: netlink.LinkAttrs{Name: "eth0.5"}}, true},
		{&netlink.Bond{LinkAttrs: netlink.LinkAttrs{Name: "bond0"}}, true},
		{&netlink.Wireguard{LinkAttrs: netlink.LinkAttrs{Name: "wg0"}}, true},
		{&netlink.Iptun{LinkAttrs: netlink.LinkAttrs{Name: "tunl0"}}, false},
		{&netlink.Iptun{LinkAttrs: netlink.LinkAttrs{Name: "tunl1"}}, true},
		{&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "veth0"}}, false},
		{&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}, false},
		{&netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "vxlan0"}}, false},
		{&netlink.Macvlan{LinkAttrs: netlink.LinkAttrs{Name: "mv0"}}, false},
	} {
		if got := leadsOut(k.link); got != k.out {
			t.Errorf("%s (%s): %v", k.link.Attrs().Name, k.link.Type(), got)
		}
	}
}
