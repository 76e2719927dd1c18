package link

import (
	"errors"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func ip(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %v: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// addTap makes a port such as a switch in user space makes.
func addTap(t *testing.T, c *conn, name string) netlink.Link {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	tap := &netlink.Tuntap{LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TAP}
	if err := c.LinkAdd(tap); err != nil {
		t.Fatalf("make tap: %v", err)
	}
	t.Cleanup(func() { _ = c.LinkDel(tap) })
	return tap
}

func TestEnsureGateway(t *testing.T) {
	l, c := newLinks(t), here(t)
	name := GatewayName(t.Name())
	addDummy(t, c, "under0", "198.18.0.1/24")
	addTap(t, c, name)
	g := Gateway{
		Name: name, MAC: "02:42:0a:06:00:01", Addr: netip.MustParsePrefix("10.6.0.1/16"),
		MTU: 1450, Source: netip.MustParseAddr("198.18.0.1"), Userspace: true,
	}
	for round := range 3 {
		if err := l.EnsureGateway(t.Context(), g); err != nil {
			t.Fatal(err)
		}
		got := look(t, c, name)
		want := view{Index: got.Index, MTU: 1450, MAC: g.MAC, Up: true, LoUp: got.LoUp, Addrs: []string{"10.6.0.1/16"}}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("round %d: %s", round, diff)
		}
		route := ip(t, "route", "show", "10.6.0.0/16")
		if strings.Count(route, "\n") != 0 || !strings.Contains(route, "dev "+name) || !strings.Contains(route, "src 198.18.0.1") {
			t.Errorf("route %q", route)
		}
		for key, value := range map[string]string{
			"ipv6/conf/" + name + "/disable_ipv6": "1", "ipv4/conf/" + name + "/arp_ignore": "1", "ipv4/conf/" + name + "/rp_filter": "1",
			"ipv4/conf/" + name + "/route_localnet": "1",
		} {
			if got := sysctl(t, "net/"+key); got != value {
				t.Errorf("%s = %s", key, got)
			}
		}
		if txChecksum(t, name) {
			t.Error("tx checksum offload is on")
		}
		// The next round puts right what was changed: an address too many, the
		// kernel's own route, a port that is down.
		switch round {
		case 0:
			ip(t, "addr", "del", "10.6.0.1/16", "dev", name)
			ip(t, "addr", "add", "10.6.0.1/16", "dev", name)
			ip(t, "addr", "add", "10.99.0.1/24", "dev", name)
		case 1:
			ip(t, "link", "set", name, "down", "mtu", "1500", "address", "02:00:00:00:00:01")
		}
	}

	routes, err := l.Routes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"198.18.0.0/24"}, texts(routes)); diff != "" {
		t.Error(diff)
	}

	addrs, err := l.Addresses(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if g.Addr.Contains(a.Addr()) {
			t.Errorf("the gateway's own address %s counts", a)
		}
	}
	if !slices.Contains(texts(addrs), "198.18.0.1/24") {
		t.Errorf("addresses %v lack the underlay's", addrs)
	}

	g.Source = netip.MustParseAddr("198.51.100.9")
	if err := l.EnsureGateway(t.Context(), g); !errors.Is(err, unix.EINVAL) {
		t.Errorf("err = %v", err)
	}
	g.Name = GatewayName("nowhere")
	if err := l.EnsureGateway(t.Context(), g); !errors.Is(err, ErrNotFound) {
		t.Errorf("err = %v", err)
	}
}

func texts(prefixes []netip.Prefix) []string {
	var all []string
	for _, p := range prefixes {
		all = append(all, p.String())
	}
	return all
}

func TestRoutes(t *testing.T) {
	l, c := newLinks(t), here(t)
	addDummy(t, c, "under0", "198.18.0.1/24", "10.0.0.1/8")
	addDummy(t, c, "under1", "192.0.2.1/25")
	ip(t, "route", "add", "10.1.0.0/16", "via", "198.18.0.9")
	ip(t, "route", "add", "10.1.0.0/16", "via", "198.18.0.8", "metric", "9")
	ip(t, "route", "add", "blackhole", "172.16.0.0/12")
	t.Cleanup(func() { ip(t, "route", "del", "blackhole", "172.16.0.0/12") })
	ip(t, "route", "add", "10.2.0.0/16", "nexthop", "via", "198.18.0.9", "nexthop", "via", "192.0.2.2")
	ip(t, "route", "add", "default", "via", "198.18.0.9")
	routes, err := l.Routes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"10.0.0.0/8", "10.1.0.0/16", "10.2.0.0/16", "172.16.0.0/12", "192.0.2.0/25", "198.18.0.0/24"}
	if diff := cmp.Diff(want, texts(routes)); diff != "" {
		t.Error(diff)
	}
}

func TestUnderlay(t *testing.T) {
	l, c := newLinks(t), here(t)
	check := func(iface, want, complaint string) {
		t.Helper()
		u, err := l.Underlay(iface)
		switch {
		case complaint != "":
			if err == nil || !strings.Contains(err.Error(), complaint) {
				t.Errorf("Underlay(%q) = %v, %v; want %q", iface, u, err, complaint)
			}
		case err != nil || u.String() != want:
			t.Errorf("Underlay(%q) = %v, %v; want %s", iface, u, err, want)
		case u.MTU != 1500:
			t.Errorf("MTU %d", u.MTU)
		}
	}
	check("", "", "no default route and no interface")
	addDummy(t, c, "under0", "198.18.0.1/24", "198.18.0.2/24")
	addDummy(t, c, "docker0", "172.17.0.1/16")
	addDummy(t, c, GatewayName("a"), "10.6.0.1/16")
	check("", "under0 (198.18.0.1)", "")
	addDummy(t, c, "under1", "192.0.2.1/24")
	check("", "", "under0 (198.18.0.1), under1 (192.0.2.1)")
	check("under1", "under1 (192.0.2.1)", "")
	check("under9", "", `"under9": no such interface`)
	check("xunder0", "", `"xunder0" has no IPv4 address`)
	check("../x", "", "not allowed")
	ip(t, "route", "add", "default", "via", "198.18.0.9", "metric", "50")
	check("", "under0 (198.18.0.1)", "")
	ip(t, "route", "add", "default", "via", "192.0.2.9", "metric", "10")
	check("", "under1 (192.0.2.1)", "")
	ip(t, "route", "add", "default", "via", "198.18.0.9", "src", "198.18.0.2", "metric", "5")
	check("", "under0 (198.18.0.2)", "")
}

func TestPrepareHost(t *testing.T) {
	if err := setSysctl("net/ipv4/ip_forward", "0"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := newLinks(t).PrepareHost(true); err != nil {
			t.Fatal(err)
		}
		if got := sysctl(t, "net/ipv4/ip_forward"); got != "1" {
			t.Errorf("ip_forward = %s", got)
		}
	}
}

// TestDeafness asks from a container, by ARP, for an address of the host. A
// switch in user space has to see the question, and the kernel must not: neither
// when somebody has flushed all nftables, nor when the kernel settings are gone.
func TestDeafness(t *testing.T) {
	l, c := newLinks(t), here(t)
	addDummy(t, c, "under0", "198.18.0.1/24")
	for _, k := range []struct {
		name                   string
		keepChain, keepSysctls bool
	}{
		{"all is there", true, true}, {"the chain alone", true, false}, {"the settings alone", false, true}, {"nothing", false, false},
	} {
		v := veth(t, l, t.Name())
		v.Userspace = true
		ns := newNamespace(t)
		if err := errors.Join(l.EnsureVeth(t.Context(), v), l.Configure(t.Context(), v.Peer, ns, config())); err != nil {
			t.Fatal(err)
		}
		if !k.keepChain {
			run(t, "nft", "flush", "ruleset")
		}
		if !k.keepSysctls {
			run(t, "sysctl", "-qw", "net.ipv4.conf."+v.Host+".arp_ignore=0", "net.ipv4.conf."+v.Host+".rp_filter=0")
		}
		deaf := k.keepChain || k.keepSysctls
		host, err := c.mustFind(v.Host)
		if err != nil {
			t.Fatal(err)
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(htons(unix.ETH_P_ALL)))
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: host.Attrs().Index}); err != nil {
			t.Fatal(err)
		}
		answered := arping(t, ns)
		for deadline := time.Now().Add(10 * time.Second); !deaf && !answered && time.Now().Before(deadline); {
			answered = arping(t, ns) // a busy machine may be late for one probe's second
		}
		if answered == deaf {
			t.Errorf("%s: answered=%v", k.name, answered)
		}
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 2}); err != nil {
			t.Fatal(err)
		}
		heard := false
		for buf := make([]byte, 2048); !heard; {
			n, _, err := unix.Recvfrom(fd, buf, 0)
			if err != nil {
				break
			}
			heard = n >= 42 && buf[12] == 8 && buf[13] == 6 && buf[21] == 1 // ARP, a request
		}
		if !heard {
			t.Errorf("%s: the switch heard nothing", k.name)
		}
		if err := l.DeleteVeth(t.Context(), v.Host); err != nil {
			t.Fatal(err)
		}
	}
}

// arping tells whether 198.18.0.1 answers on eth0 of a namespace.
func arping(t *testing.T, ns string) bool {
	t.Helper()
	const wait = "1"
	ctx := t.Context()
	deadline := time.Now().Add(10 * time.Second)
	for time.Now().Before(deadline) {
		cmd := exec.CommandContext(ctx, "nsenter", "--net="+ns, "busybox", "arping", "-c", "1", "-w", wait, "-I", "eth0", "198.18.0.1")
		out, err := cmd.CombinedOutput()
		if strings.Contains(string(out), "Sent 1 probe") || strings.Contains(string(out), "Received") {
			return err == nil
		}
		t.Logf("arping: %v: %s", err, out)
	}
	t.Fatal("arping does not work")
	return false
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }
