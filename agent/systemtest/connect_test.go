package systemtest

import (
	"fmt"
	"strings"
	"testing"
)

// namespace makes a network namespace on host k and gives its path.
func namespace(t testing.TB, k int, name string) string {
	t.Helper()
	must(t, k, "ip", "netns", "add", name)
	t.Cleanup(func() { try(t, k, "ip", "netns", "del", name) })
	return "/run/netns/" + name
}

// Promise: any namespace can be connected, whoever made it, and reaches others
// across hosts; the same request again changes nothing; disconnect leaves nothing.
func TestConnectAcrossHosts(t *testing.T) {
	makeNetwork(t, 1, "conn", "10.25.0.0/24")
	before := footprint(t, 1)
	ns1, ns2 := namespace(t, 1, "na"), namespace(t, 2, "nb")
	sp(t, 1, "connect", "-n", "conn", "--netns", ns1, "--id", "na", "--ip", "10.25.0.77")
	sp(t, 2, "connect", "-n", "conn", "--netns", ns2, "--id", "nb", "--ifname", "net7")
	sp(t, 2, "connect", "-n", "conn", "--netns", ns2, "--id", "nb", "--ifname", "net7")
	if ip := info(t, 1, "na").IP; ip != "10.25.0.77" {
		t.Errorf("asked for 10.25.0.77, got %s", ip)
	}
	b := info(t, 2, "nb")
	ping := func(k int, ns, ip string) error {
		if r := try(t, k, "ip", "netns", "exec", ns, "ping", "-c", "1", "-W", "1", ip); r.code != 0 {
			return fmt.Errorf("%s%s", r.stdout, r.stderr)
		}
		return nil
	}
	eventually(t, "na reaches nb", func() error { return ping(1, "na", b.IP) })
	eventually(t, "nb reaches na", func() error { return ping(2, "nb", "10.25.0.77") })
	eventually(t, "na reaches outside", func() error { return ping(1, "na", "203.0.113.1") })

	sp(t, 1, "disconnect", "na")
	sp(t, 2, "disconnect", "nb")
	if r := try(t, 2, "socketplane", "disconnect", "nb"); r.code != 1 || !strings.Contains(r.stderr, "nb") {
		t.Errorf("disconnect of what is gone: status %d, %q", r.code, r.stderr)
	}
	eventually(t, "nothing is left", func() error { return differs(before, footprint(t, 1)) })
}

// Promise: a namespace that goes away without disconnect takes its endpoint with it.
func TestConnectedNamespaceVanishes(t *testing.T) {
	makeNetwork(t, 1, "vanish", "10.26.0.0/24")
	ns := namespace(t, 1, "va")
	before := footprint(t, 1)
	sp(t, 1, "connect", "-n", "vanish", "--netns", ns, "--id", "va")
	must(t, 1, "ip", "netns", "del", "va")
	sp(t, 1, "agent", "restart") // it looks at the start; else within its slow timer
	eventually(t, "its endpoint goes", func() error { return differs(before, footprint(t, 1)) })
}
