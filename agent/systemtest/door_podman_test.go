package systemtest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/socketplane/socketplane/agent/systemtest/lab"
)

// podmanConf sets the distribution's podman up: its networks by CNI, ports that
// it leaves to the network, no systemd, which a lab host lacks, and locks in its
// own /run: /dev/shm is the machine's.
const podmanConf = `[network]
network_backend = "cni"
[engine]
enable_port_reservation = false
lock_type = "file"
cgroup_manager = "cgroupfs"
events_logger = "file"
`

const podmanConfFile = "/run/lab/containers.conf"

func podman(args ...string) []string {
	return append([]string{"env", "CONTAINERS_CONF=" + podmanConfFile, "podman"}, args...)
}

// podmanReady gives host k's podman its settings and the image.
func podmanReady(t testing.TB, k int) {
	t.Helper()
	tryInput(t, k, podmanConf, "sh", "-c", "cat >"+podmanConfFile)
	if try(t, k, podman("image", "exists", lab.Image)...).code != 0 {
		must(t, k, "sh", "-c", "docker save "+lab.Image+" | "+strings.Join(podman("load", "-q"), " "))
	}
}

// podmanRun is `podman run` on networks, with flags before the image.
func podmanRun(k int, flags ...string) []string {
	return podman(append([]string{"run", "--cgroup-parent", fmt.Sprintf("/%s/h%d", lab.Prefix, k)}, flags...)...)
}

// podmanDoor is podman with its networks by CNI.
func podmanDoor() door {
	verb := func(argv ...string) func(testing.TB, int, string) {
		return func(t testing.TB, k int, name string) {
			t.Helper()
			must(t, k, podman(append(argv, name)...)...)
		}
	}
	return door{
		name: "podman", again: true, // a stopped container's address goes back: CNI has it so
		prepare: func(t testing.TB, k int, network string) {
			t.Helper()
			cniNetwork(t, k, network)
			podmanReady(t, k)
		},
		start: func(t testing.TB, k int, network, name string) {
			t.Helper()
			must(t, k, podmanRun(k, "-d", "--network", network, "--name", name, lab.Image, "sleep", "100000")...)
		},
		once: func(t testing.TB, k int, network, name string, argv ...string) string {
			t.Helper()
			return must(t, k, podmanRun(k, append([]string{"--rm", "--network", network, "--name", name, lab.Image}, argv...)...)...)
		},
		exec: func(t testing.TB, k int, name string, argv ...string) result {
			t.Helper()
			return try(t, k, podman(append([]string{"exec", name}, argv...)...)...)
		},
		stop: verb("stop", "-t", "0"), startAgain: verb("start"), restart: verb("restart", "-t", "0"),
		kill: func(t testing.TB, k int, name string) {
			t.Helper()
			must(t, k, "kill", "-9", strings.TrimSpace(must(t, k, podman("inspect", "-f", "{{.State.Pid}}", name)...)))
			must(t, k, podman("wait", name)...) // it has noticed
		},
		remove: func(t testing.TB, k int, name string) {
			t.Helper()
			if try(t, k, podman("container", "exists", name)...).code == 0 {
				must(t, k, podman("rm", "-f", "-t", "0", name)...)
			}
		},
	}
}
