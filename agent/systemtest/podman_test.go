package systemtest

import (
	"testing"

	"github.com/socketplane/socketplane/agent/systemtest/lab"
)

// Promise: `podman network reload`, which passes a container's address twice,
// leaves the container on its network with its address.
func TestPodmanReload(t *testing.T) {
	makeNetwork(t, 1, "podreload", "10.68.0.0/24")
	cniNetwork(t, 1, "podreload")
	podmanReady(t, 1)
	peer := connectDoor().enterBy(t, 2, "podreload", "reload-peer")
	must(t, 1, podmanRun(1, "-d", "--network", "podreload", "--ip", "10.68.0.50", "--name", "pr", lab.Image, "sleep", "100000")...)
	t.Cleanup(func() { podmanDoor().remove(t, 1, "pr") })
	for range 2 {
		must(t, 1, podman("network", "reload", "pr")...)
		eventually(t, "it is reached at its address", func() error { return peer.reaches(t, "10.68.0.50") })
	}
}
