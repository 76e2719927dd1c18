//go:build netavark

package systemtest

import (
	"strings"
	"testing"

	"github.com/socketplane/socketplane/agent/systemtest/lab"
)

// podmanMakes is `podman network create` by our driver, with flags before the name.
func podmanMakes(t testing.TB, k int, name string, flags ...string) result {
	t.Helper()
	return try(t, k, podman(append(append([]string{"network", "create", "--driver", "socketplane-netavark"}, flags...), name)...)...)
}

// Promise: `podman network create` makes the cluster's network or joins the one that is
// there; what a network cannot be is refused in words, and leaves nothing.
func TestNetavarkNetworks(t *testing.T) {
	for k := 1; k <= 2; k++ {
		podmanReady(t, k)
	}
	if !netavark(t, 1) {
		t.Fatal("Podman 5 is needed; see make test-podman")
	}
	made := func(k int, name string, flags ...string) {
		t.Helper()
		if r := podmanMakes(t, k, name, flags...); r.code != 0 {
			t.Fatalf("h%d: %v: %s", k, flags, r.stderr)
		}
		t.Cleanup(func() { must(t, k, podman("network", "rm", "-f", name)...) })
	}
	made(1, "nav", "--subnet", "10.72.0.0/24", "--gateway", "10.72.0.254", "--dns", "10.72.0.53")
	t.Cleanup(func() { sp(t, 1, "network", "delete", "nav") })
	made(2, "nav", "--opt", "dns=10.72.0.53")
	made(2, "other", "--opt", "network=nav")
	first := podmanRun(1, "--rm", "--network", "nav", lab.Image)
	if out := must(t, 1, append(first, "ip", "route")...); !strings.Contains(out, "default via 10.72.0.254 dev eth0") {
		t.Errorf("the gateway is another:\n%s", out)
	}
	if out := must(t, 1, append(first, "cat", "/etc/resolv.conf")...); !strings.Contains(out, "nameserver 10.72.0.53") {
		t.Errorf("the name server is not the network's:\n%s", out)
	}
	peer := connectDoor().enterBy(t, 1, "nav", "nav-peer")
	must(t, 2, podmanRun(2, "--rm", "--network", "other", lab.Image, "ping", "-c", "1", "-W", "5", peer.ip)...)

	before := traces(t, 1)
	for _, r := range []struct{ flags, said string }{
		{"--internal", "--internal cannot be used"},
		{"--ipv6 --subnet fd00:72::/64", "networks are IPv4"},
		{"--subnet 10.73.0.0/24 --subnet 10.74.0.0/24", "a network has one"},
		{"--subnet 10.73.0.0/24 --ip-range 10.73.0.128/25", "--ip-range cannot be used"},
		{"--subnet 10.72.0.0/25", "overlaps"},
		{"--ipam-driver host-local --subnet 10.73.0.0/24", "--ipam-driver"},
		{"--ipam-driver dhcp", "--ipam-driver"},
		{"--opt mtu=1300", `option "mtu"`},
		{"--opt dns=nobody", "name server"},
		{"--opt network=../etc", "network name"},
		{"--opt socket=relative", "absolute path"},
		{"--interface-name spg1", "--interface-name cannot be used"},
		{"--route 10.99.0.0/16,10.72.0.9", "--route cannot be used"},
	} {
		if got := podmanMakes(t, 1, "refused", strings.Fields(r.flags)...); got.code == 0 || !strings.Contains(got.stderr, r.said) {
			t.Errorf("%s: status %d, %s%s, want %s", r.flags, got.code, got.stdout, got.stderr, r.said)
			try(t, 1, podman("network", "rm", "-f", "refused")...)
		}
		if r := try(t, 1, "socketplane", "network", "info", "refused"); r.code == 0 {
			t.Errorf("%s: the cluster has it:\n%s", r.stderr, r.stdout)
			sp(t, 1, "network", "delete", "refused")
		}
	}
	if got := podmanMakes(t, 1, "nav2", "--opt", "network=nav", "--subnet", "10.75.0.0/24"); got.code == 0 || !strings.Contains(got.stderr, `network "nav" exists with subnet 10.72.0.0/24`) {
		t.Errorf("another subnet than the cluster's: status %d, %s%s", got.code, got.stdout, got.stderr)
	}
	leavesNothing(t, 1, before)
}

// Promise: --ip, --mac-address and -p hold as they were asked for, through stop and
// start, a restart of the agent and a reload; what is wrong is refused and leaves
// nothing, and what ended is free for others.
func TestNetavarkContainers(t *testing.T) {
	podmanReady(t, 1)
	if !netavark(t, 1) {
		t.Fatal("Podman 5 is needed; see make test-podman")
	}
	makeNetwork(t, 1, "navc", "10.76.0.0/24")
	podmanNetwork(t, 1, "navc")
	peer := connectDoor().enterBy(t, 2, "navc", "navc-peer")
	before := traces(t, 1)
	run := func(name string, flags ...string) []string {
		return podmanRun(1, append(append([]string{"-d", "--network", "navc", "--name", name}, flags...), lab.Image, "httpd", "-f", "-p", "80", "-h", "/etc")...)
	}
	must(t, 1, run("n1", "--ip", "10.76.0.50", "--mac-address", "02:00:00:00:00:50", "-p", "8076:80", "-p", "18760-18762:80-82", "--network-alias", "alias")...)
	t.Cleanup(func() { podmanDoor().remove(t, 1, "n1") })
	well := func(when string) {
		t.Helper()
		eventually(t, when+": it is reached", func() error { return peer.reaches(t, "10.76.0.50") })
		fetched(t, 8076)
		fetched(t, 18760)
		e := info(t, 1, "n1")
		if e.IP != "10.76.0.50" || e.MAC != "02:00:00:00:00:50" || len(e.Ports) != 4 {
			t.Errorf("%s: the agent has %s, %s, %v", when, e.IP, e.MAC, e.Ports)
		}
	}
	well("run")
	if said := must(t, 1, podman("inspect", "-f", "{{json .NetworkSettings.Networks}}", "n1")...); !strings.Contains(said, `"10.76.0.50"`) || !strings.Contains(said, `"10.76.0.1"`) {
		t.Errorf("podman inspect: %s", said)
	}
	sp(t, 1, "agent", "restart")
	healthy(t, 1)
	well("the agent restarted")
	must(t, 1, podman("network", "reload", "n1")...)
	well("reload")
	must(t, 1, podman("restart", "-t", "0", "n1")...)
	well("restart")

	for name, flags := range map[string][]string{
		`is taken by`:          {"--ip", "10.76.0.50"},
		`outside the subnet`:   {"--ip", "10.99.0.1"},
		`port`:                 {"-p", "8076:80"},
		`neither tcp nor udp`:  {"-p", "8077:80/sctp"},
		`is taken by "`:        {"--mac-address", "02:00:00:00:00:50"},
		`option "vlan"`:        {"--network", "navc:vlan=7"},
		`is not IPv4`:          {"-p", "[::1]:8077:80"},
		`published`:            {"-p", "20000-20300:80-380"},
		`is not a unicast one`: {"--mac-address", "01:00:00:00:00:50"},
	} {
		argv := run("n2", flags...)
		if name == `option "vlan"` { // in place of the other --network
			argv = podmanRun(1, "-d", "--network", "navc:vlan=7", "--name", "n2", lab.Image, "true")
		}
		if r := try(t, 1, argv...); r.code == 0 || !strings.Contains(r.stderr, name) {
			t.Errorf("%v: status %d, %s, want %s", flags, r.code, r.stderr, name)
		}
		try(t, 1, podman("rm", "-f", "-t", "0", "n2")...)
	}
	well("others were refused")

	// Podman 5 keeps published ports for itself unless it is told not to.
	const reserving = "/run/lab/reserving.conf"
	tryInput(t, 1, strings.Replace(podmanConf+podmanByNetavark, "enable_port_reservation = false", "", 1), "sh", "-c", "cat >"+reserving)
	argv := run("n2", "-p", "8077:80")
	if r := try(t, 1, append([]string{"env", "CONTAINERS_CONF=" + reserving}, argv[2:]...)...); r.code == 0 || !strings.Contains(r.stderr, "enable_port_reservation = false") {
		t.Errorf("a port that Podman keeps: status %d, %s", r.code, r.stderr)
	}
	must(t, 1, podman("rm", "-f", "-t", "0", "n2")...)

	must(t, 1, podman("stop", "-t", "0", "n1")...)
	endpointGone(t, 1, "n1")
	must(t, 1, run("n3", "--ip", "10.76.0.50", "-p", "8076:80")...) // both are free
	t.Cleanup(func() { podmanDoor().remove(t, 1, "n3") })
	fetched(t, 8076)
	podmanDoor().remove(t, 1, "n3")
	must(t, 1, podman("start", "n1")...)
	well("stop and start")
	podmanDoor().remove(t, 1, "n1")
	leavesNothing(t, 1, before)
}
