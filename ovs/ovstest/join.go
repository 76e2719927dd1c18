package ovstest

import (
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
)

// Wire is a bridge in its own namespace that connects instances. Each instance has a port
// on it: end0, end1, ...
type Wire struct {
	NetNS string
	ends  int
}

// Join connects instances with a Wire. It gives each an address on its bridge br-phy:
// 198.18.0.1, 198.18.0.2, ... The Wire is removed when the test ends.
func Join(t testing.TB, instances ...*Instance) *Wire {
	t.Helper()
	w := &Wire{NetNS: instances[0].NetNS + "-wire", ends: len(instances)}
	ip := func(args ...string) { must(t, exec.Command("ip", args...)) }
	ip("netns", "add", w.NetNS)
	t.Cleanup(func() { ip("netns", "delete", w.NetNS) })
	ip("-n", w.NetNS, "link", "add", "br0", "up", "type", "bridge", "forward_delay", "0", "mcast_snooping", "0")
	for n, i := range instances {
		end := fmt.Sprintf("end%d", n)
		ip("link", "add", "up0", "netns", i.NetNS, "type", "veth", "peer", "name", end, "netns", w.NetNS)
		ip("-n", i.NetNS, "link", "set", "up0", "up")
		ip("-n", w.NetNS, "link", "set", end, "master", "br0", "up")
		must(t, i.VSCtl("add-br", "br-phy", "--", "set", "Bridge", "br-phy", "datapath_type=netdev", "--", "add-port", "br-phy", "up0"))
		i.Run(t, "ip", "addr", "add", fmt.Sprint(w.Addr(n), "/24"), "dev", "br-phy")
		i.Run(t, "ip", "link", "set", "br-phy", "up")
		i.waitFor(t, "ovs-vswitchd", func() bool {
			out, err := i.command("ovs-appctl", "ovs/route/show").Output()
			return err == nil && strings.Contains(string(out), "198.18.0.0/24")
		})
	}
	return w
}

// Addr returns the address of the instance with index n.
func (w *Wire) Addr(n int) netip.Addr { return netip.AddrFrom4([4]byte{198, 18, 0, byte(n + 1)}) }

// Narrow makes the wire silently drop packets of more than mtu bytes, or none if mtu is
// 0.
func (w *Wire) Narrow(t testing.TB, mtu int) {
	t.Helper()
	script := "table netdev wire\ndelete table netdev wire\n"
	for n := range w.ends {
		if mtu > 0 {
			script += fmt.Sprintf("table netdev wire { chain end%d { type filter hook ingress device end%d priority 0; meta length > %d drop; }; }\n", n, n, mtu)
		}
	}
	cmd := exec.Command("nsenter", "--net=/run/netns/"+w.NetNS, "--", "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(script)
	must(t, cmd)
}
