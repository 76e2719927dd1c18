package firewall

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
)

// Addresses in the tunnel between the host and its peer.
var (
	tunnelSelf = netip.MustParseAddr("10.99.0.1")
	tunnelPeer = netip.MustParseAddr("10.99.0.2")
)

// TestKernelTunnels: the kernel's tunnels send with the user id of whoever sent the
// packet inside, so a mark tells them from a user's own VXLAN. The tunnel here is the
// kernel's. It leaves the mark of the packet inside on the one around it, as it does
// for Open vSwitch with options:egress_pkt_mark.
func TestKernelTunnels(t *testing.T) {
	name := world(t)
	f := New(slog.New(slog.DiscardHandler))
	t.Cleanup(func() {
		if err := f.Clear(); err != nil {
			t.Error(err)
		}
	})
	kernel := rules()
	kernel.Userspace = false
	set := func(marked bool) (rule bool) {
		t.Helper()
		kernel.Marked = marked
		if err := f.Set(t.Context(), kernel); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), "nft", "list", "chain", "ip", tableName, "sending").Output()
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(string(out), "drop")
	}
	if set(false) {
		t.Error("VXLAN without the mark is dropped before the tunnels send with it")
	}
	if !set(true) {
		t.Error("VXLAN without the mark is not dropped")
	}
	// A later life finds the rule, which shows that the tunnels send with the mark.
	kernel.Underlay = append(kernel.Underlay, "ul7")
	if !set(false) {
		t.Error("a new life removed the rule")
	}
	closing := kernel
	if err := f.Close(t.Context(), closing); err != nil {
		t.Fatal(err)
	}
	if !set(false) {
		t.Error("a new life closed the ports and removed the rule")
	}
	kernel.Underlay, kernel.Marked = rules().Underlay, true
	if err := f.Set(t.Context(), kernel); err != nil {
		t.Fatal(err)
	}
	t.Run("a user", func(t *testing.T) { // its ears are gone before the tunnel needs their port
		judge(t, newEars(name), "VXLAN as a datagram", []packet{
			udp("self", peer, 4789, false).user(65534), udp("self", router, 4789, false).user(65534),
			udp("self", joiner, 4789, true).user(65534), // no host of ours
			udp("self", peer, 4789, true), udp("self", peer, 53, true).user(65534),
		})
	})

	for _, end := range []struct {
		ip            []string
		local, remote netip.Addr
		inside        netip.Addr
	}{
		{[]string{"ip"}, self, peer, tunnelSelf},
		{[]string{"ip", "-n", name("peer")}, peer, self, tunnelPeer},
	} {
		ip := func(args ...string) { t.Helper(); do(t, append(end.ip, args...)...) }
		ip("link", "add", "vxtest", "type", "vxlan", "id", "7", "local", end.local.String(), "remote", end.remote.String(), "dstport", "4789")
		ip("addr", "add", end.inside.String()+"/24", "dev", "vxtest")
		ip("link", "set", "vxtest", "up")
	}
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", "vxtest").Run() })
	e := newEars(name)
	judge(t, e, "a tunnel without the mark, which shows whose its packets are", []packet{
		udp("self", tunnelPeer, 7001, true), udp("self", tunnelPeer, 7002, false).user(65534),
	})
	do(t, "nft", fmt.Sprintf("add table ip marks; add chain ip marks output { type route hook output priority -400; }; "+
		"add rule ip marks output oifname vxtest meta mark set %d", TunnelMark))
	t.Cleanup(func() { _ = exec.Command("nft", "delete table ip marks").Run() })
	judge(t, e, "a tunnel with the mark", []packet{udp("self", tunnelPeer, 7003, true).user(65534)})
	// Others mark packets for purposes of their own, as VPNs do, and may replace ours.
	do(t, "iptables-nft", "-w", "-t", "mangle", "-A", "OUTPUT", "-d", peer.String(), "-j", "MARK", "--set-mark", "0x1")
	t.Cleanup(func() { _ = exec.Command("iptables-nft", "-w", "-t", "mangle", "-F", "OUTPUT").Run() })
	judge(t, e, "a tunnel whose mark is replaced later", []packet{udp("self", tunnelPeer, 7004, true).user(65534)})
}
