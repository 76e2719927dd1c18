package systemtest

import (
	"slices"
	"strings"
	"testing"

	"github.com/socketplane/socketplane/agent/systemtest/lab"
)

// Promise: `podman network reload`, which passes a container's address twice,
// leaves the container on its network with its address.
func TestPodmanReload(t *testing.T) {
	makeNetwork(t, 1, "podreload", "10.68.0.0/24")
	podmanReady(t, 1)
	podmanNetwork(t, 1, "podreload")
	peer := connectDoor().enterBy(t, 2, "podreload", "reload-peer")
	must(t, 1, podmanRun(1, "-d", "--network", "podreload", "--ip", "10.68.0.50", "--name", "pr", lab.Image, "sleep", "100000")...)
	t.Cleanup(func() { podmanDoor().remove(t, 1, "pr") })
	for range 2 {
		must(t, 1, podman("network", "reload", "pr")...)
		eventually(t, "it is reached at its address", func() error { return peer.reaches(t, "10.68.0.50") })
	}
}

// leadBy lists the networks by which a container's ports are led to it.
func leadBy(t testing.TB, k int, name string) (networks []string) {
	t.Helper()
	id := strings.TrimSpace(must(t, k, podman("inspect", "-f", "{{.Id}}", name)...))
	var list []endpoint
	decode(t, sp(t, k, "info", "-o", "json"), &list)
	for _, e := range list {
		if e.ContainerID == id && len(e.Ports) > 0 {
			networks = append(networks, e.Network)
		}
	}
	return networks
}

// Promise: a published port of a container on two networks leads to the network
// that it was put on first, across a restart of the agent, and to the other one
// when it leaves that. Podman hands the ports to each network.
func TestPodmanPublishesOnTwoNetworks(t *testing.T) {
	networks := []string{"podp-a", "podp-b"}
	makeNetwork(t, 1, networks[0], "10.69.0.0/24")
	makeNetwork(t, 1, networks[1], "10.70.0.0/24")
	podmanReady(t, 1)
	for _, n := range networks {
		podmanNetwork(t, 1, n)
	}
	before := traces(t, 1)
	serve := []string{lab.Image, "httpd", "-f", "-p", "80", "-h", "/etc"}
	one := func(what, name string, port int) string {
		t.Helper()
		fetched(t, port)
		led := leadBy(t, 1, name)
		if len(led) != 1 {
			t.Fatalf("%s: the port leads to %s by %v", what, name, led)
		}
		return led[0]
	}
	other := func(n string) string { return networks[1-slices.Index(networks, n)] }

	must(t, 1, podmanRun(1, append([]string{"-d", "--network", networks[0], "--network", networks[1], "-p", "8073:80", "--name", "p2"}, serve...)...)...)
	t.Cleanup(func() { podmanDoor().remove(t, 1, "p2") })
	led := one("run", "p2", 8073)
	sp(t, 1, "agent", "restart")
	healthy(t, 1)
	if now := one("the agent restarted", "p2", 8073); now != led {
		t.Errorf("after a restart of the agent the port leads to %s, not %s", now, led)
	}
	must(t, 1, podman("network", "disconnect", led, "p2")...)
	if now := one("disconnected", "p2", 8073); now != other(led) {
		t.Errorf("the port leads to %s, not %s", now, other(led))
	}
	must(t, 1, podman("network", "connect", led, "p2")...)
	if now := one("connected again", "p2", 8073); now != other(led) {
		t.Errorf("the port leads to %s, not %s", now, other(led))
	}
	podmanDoor().remove(t, 1, "p2")

	must(t, 1, podmanRun(1, append([]string{"-d", "--network", networks[0], "-p", "8073:80", "--name", "p3"}, serve...)...)...)
	t.Cleanup(func() { podmanDoor().remove(t, 1, "p3") })
	must(t, 1, podman("network", "connect", networks[1], "p3")...)
	one("connect", "p3", 8073)
	podmanDoor().remove(t, 1, "p3")
	leavesNothing(t, 1, before)
}
