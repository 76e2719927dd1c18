package link

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func config() Config {
	return Config{
		IfName: "eth0", Addr: netip.MustParsePrefix("10.6.0.2/16"), Gateway: netip.MustParseAddr("10.6.0.1"),
		MAC: "02:42:0a:06:00:02", MTU: 1450, DefaultRoute: true,
	}
}

// view is what a container sees of its interface.
type view struct {
	Index, MTU int
	MAC        string
	Up, LoUp   bool
	Addrs      []string
	Default    []string
}

func look(t *testing.T, c *conn, name string) view {
	t.Helper()
	link, err := c.mustFind(name)
	if err != nil {
		t.Fatal(err)
	}
	lo, err := c.mustFind("lo")
	if err != nil {
		t.Fatal(err)
	}
	up := func(l netlink.Link) bool { return l.Attrs().RawFlags&unix.IFF_UP != 0 }
	v := view{Index: link.Attrs().Index, MTU: link.Attrs().MTU, MAC: link.Attrs().HardwareAddr.String(), Up: up(link), LoUp: up(lo)}
	addrs, err := c.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		v.Addrs = append(v.Addrs, a.IPNet.String())
	}
	routes, err := c.routes()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		if isDefault(r) {
			v.Default = append(v.Default, r.Gw.String())
		}
	}
	return v
}

func TestConfigure(t *testing.T) {
	for _, born := range []bool{false, true} {
		t.Run(fmt.Sprintf("born=%v", born), func(t *testing.T) { testConfigure(t, born) })
	}
}

func testConfigure(t *testing.T, born bool) {
	l, ns := newLinks(t), newNamespace(t)
	v := veth(t, l, t.Name())
	v.Userspace = true
	if born {
		v.NetNS, v.IfName = ns, "eth0"
	}
	if err := l.EnsureVeth(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	c := inside(t, ns)
	want := view{
		MTU: 1450, MAC: "02:42:0a:06:00:02", Up: true, LoUp: true,
		Addrs: []string{"10.6.0.2/16"}, Default: []string{"10.6.0.1"},
	}
	for round := range 3 {
		if born {
			if err := l.EnsureVeth(t.Context(), v); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.Configure(t.Context(), v.Peer, ns, config()); err != nil {
			t.Fatal(err)
		}
		got := look(t, c, "eth0")
		if round == 0 {
			want.Index = got.Index
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("round %d: %s", round, diff)
		}
	}
	link, _ := c.mustFind("eth0")
	if err := c.LinkSetMTU(link, 1300); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(l.SetPeerMTU(t.Context(), v.Host, ns, 1400), l.SetMTU(t.Context(), v.Host, 1400)); err != nil {
		t.Fatal(err)
	}
	if got := look(t, c, "eth0"); got.MTU != 1400 {
		t.Errorf("MTU %d", got.MTU)
	}
	if s, err := l.Inspect(v.Host); err != nil || s.MTU != 1400 || !s.PeerMoved {
		t.Errorf("state %+v, %v", s, err)
	}
	// What somebody else does to the MAC inside is seen from outside.
	if p, err := l.Peer(v.Host, ns); err != nil || p != (Peer{Name: "eth0", MAC: link.Attrs().HardwareAddr.String()}) {
		t.Errorf("peer %+v, %v", p, err)
	}
	if err := c.LinkSetHardwareAddr(link, []byte{2, 0, 0, 0, 0, 0x7a}); err != nil {
		t.Fatal(err)
	}
	if p, err := l.Peer(v.Host, ns); err != nil || p.MAC != "02:00:00:00:00:7a" {
		t.Errorf("peer %+v, %v", p, err)
	}
	if p, err := l.Peer(v.Host, newNamespace(t)); err == nil {
		t.Errorf("peer in another namespace: %+v", p)
	}
	// The container's death takes the pair with it; here its deletion inside.
	if err := c.LinkDel(link); err != nil {
		t.Fatal(err)
	}
	if there, err := l.Exists(v.Host); err != nil || there {
		t.Errorf("exists %v, %v", there, err)
	}
}

func TestConfigureKeepsDefaultRoute(t *testing.T) {
	l, ns := newLinks(t), newNamespace(t)
	v := veth(t, l, t.Name())
	c := inside(t, ns)
	other := addDummy(t, c, "eth7", "192.0.2.2/24")
	if err := c.RouteAdd(&netlink.Route{LinkIndex: other.Attrs().Index, Gw: []byte{192, 0, 2, 1}, Priority: 500}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(l.EnsureVeth(t.Context(), v), l.Configure(t.Context(), v.Peer, ns, config())); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"192.0.2.1"}, look(t, c, "eth0").Default); diff != "" {
		t.Error(diff)
	}
}

func TestConfigureRefuses(t *testing.T) {
	l, host := newLinks(t), here(t)
	ns := newNamespace(t)
	taken := newNamespace(t)
	addDummy(t, inside(t, taken), "eth0")
	file := filepath.Join(t.TempDir(), "file")
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), unix.Mkfifo(fifo, 0o600)); err != nil {
		t.Fatal(err)
	}
	with := func(change func(*Config)) Config {
		c := config()
		change(&c)
		return c
	}
	for _, test := range []struct {
		name, ns string
		config   Config
		want     error // nil: any
	}{
		{"regular file", file, config(), ErrNotNamespace},
		{"fifo", fifo, config(), ErrNotNamespace},
		{"device", "/dev/null", config(), ErrNotNamespace},
		{"directory", "/proc/1/ns", config(), ErrNotNamespace},
		{"mount namespace", "/proc/self/ns/mnt", config(), ErrNotNamespace},
		{"own namespace", "/proc/self/ns/net", config(), ErrHostNamespace},
		{"missing", "/proc/self/ns/nothing", config(), os.ErrNotExist},
		{"empty", "", config(), os.ErrNotExist},
		{"NUL", "/proc/self/ns/net\x00", config(), nil},
		{"name taken", taken, config(), ErrExists},
		{"bad name", ns, with(func(c *Config) { c.IfName = "a/b" }), nil},
		{"loopback's name", ns, with(func(c *Config) { c.IfName = "lo" }), ErrExists},
		{"bad MAC", ns, with(func(c *Config) { c.MAC = "01" }), nil},
		{"no address", ns, with(func(c *Config) { c.Addr = netip.Prefix{} }), nil},
		{"MTU too small", ns, with(func(c *Config) { c.MTU = 10 }), unix.EINVAL},
		{"unreachable gateway", ns, with(func(c *Config) { c.Gateway = netip.MustParseAddr("192.0.2.1") }), unix.ENETUNREACH},
	} {
		t.Run(test.name, func(t *testing.T) {
			v := veth(t, l, t.Name())
			if err := l.EnsureVeth(t.Context(), v); err != nil {
				t.Fatal(err)
			}
			err := l.Configure(t.Context(), v.Peer, test.ns, test.config)
			if err == nil || (test.want != nil && !errors.Is(err, test.want)) {
				t.Errorf("err = %v, want %v", err, test.want)
			}
			t.Log(err)
			if got := names(t, inside(t, ns)); len(got) != 0 {
				t.Errorf("left in the namespace: %v", got)
			}
			if diff := cmp.Diff([]string{"xeth0", "eth0"}, names(t, inside(t, taken))); diff != "" {
				t.Error(diff)
			}
			peer, err := host.mustFind(v.Peer)
			if err != nil {
				t.Fatalf("the peer is not back on the host: %v", err)
			}
			if peer.Attrs().RawFlags&unix.IFF_UP != 0 {
				t.Error("the peer was left up")
			}
			// And nothing hinders the next try.
			if err := l.Configure(t.Context(), v.Peer, newNamespace(t), config()); err != nil {
				t.Error(err)
			}
		})
	}
	if err := l.Configure(t.Context(), PeerName("nobody"), ns, config()); !errors.Is(err, ErrNotFound) {
		t.Errorf("err = %v", err)
	}
	if err := l.Configure(t.Context(), PeerName("nobody"), taken, config()); !errors.Is(err, ErrExists) {
		t.Errorf("err = %v", err)
	}
}

// TestBornRefuses is TestConfigureRefuses for a peer that is born inside.
func TestBornRefuses(t *testing.T) {
	l, host := newLinks(t), here(t)
	ns, taken := newNamespace(t), newNamespace(t)
	addDummy(t, inside(t, taken), "eth0")
	for _, test := range []struct {
		name, ns, ifName string
		want             error
	}{
		{"not a network namespace", "/proc/self/ns/mnt", "eth0", ErrNotNamespace},
		{"own namespace", ownNamespace, "eth0", ErrHostNamespace},
		{"missing", "/proc/self/ns/nothing", "eth0", os.ErrNotExist},
		{"name taken", taken, "eth0", ErrExists},
		{"loopback's name", ns, "lo", ErrExists},
		{"no name", ns, "", nil},
	} {
		v := veth(t, l, t.Name()+test.name)
		v.Userspace, v.NetNS, v.IfName = true, test.ns, test.ifName
		err := l.EnsureVeth(t.Context(), v)
		if err == nil || (test.want != nil && !errors.Is(err, test.want)) {
			t.Errorf("%s: err = %v, want %v", test.name, err, test.want)
		}
	}
	if got := names(t, host); len(got) != 0 {
		t.Errorf("left on the host: %v", got)
	}
	if got := names(t, inside(t, ns)); len(got) != 0 {
		t.Errorf("left in the namespace: %v", got)
	}

	// Configuring fails: the namespace is as it was before.
	v := veth(t, l, t.Name())
	v.NetNS, v.IfName = ns, "eth0"
	bad := config()
	bad.Gateway = netip.MustParseAddr("192.0.2.1")
	if err := l.EnsureVeth(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	if err := l.Configure(t.Context(), v.Peer, ns, bad); !errors.Is(err, unix.ENETUNREACH) {
		t.Errorf("err = %v", err)
	}
	if got := names(t, inside(t, ns)); len(got) != 0 {
		t.Errorf("left in the namespace: %v", got)
	}
	if err := errors.Join(l.EnsureVeth(t.Context(), v), l.Configure(t.Context(), v.Peer, ns, config())); err != nil {
		t.Error(err)
	}
}

func TestNSInode(t *testing.T) {
	a, b := newNamespace(t), newNamespace(t)
	first, err := NSInode(a)
	if err != nil {
		t.Fatal(err)
	}
	again, err := NSInode(a)
	if err != nil || again != first {
		t.Errorf("%v, %v", again, err)
	}
	if other, err := NSInode(b); err != nil || other == first {
		t.Errorf("%v, %v", other, err)
	}
	if _, err := NSInode("/proc/self/ns/uts"); !errors.Is(err, ErrNotNamespace) {
		t.Errorf("err = %v", err)
	}
}
