package systemtest

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/socketplane/socketplane/agent/systemtest/lab"
)

// podmanConf sets Podman up: ports that it leaves to the network, no systemd, which a lab
// host lacks, and locks in its own /run: /dev/shm is the machine's.
const podmanConf = `[engine]
enable_port_reservation = false
lock_type = "file"
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
[network]
`

// Podman 4 knows our networks by CNI, Podman 5 by netavark, which looks for plugins in
// this directory too.
const (
	podmanByCNI      = "network_backend = \"cni\"\n"
	podmanByNetavark = "network_backend = \"netavark\"\nnetavark_plugin_dirs = [\"" + netavarkPlugins + "\"]\n"
	netavarkPlugins  = "/run/lab/netavark"
	netavarkPlugin   = netavarkPlugins + "/socketplane-netavark"
)

const podmanConfFile = "/run/lab/containers.conf"

func podman(args ...string) []string {
	// Podman 5 warns at each call on a machine with the older cgroups.
	return append([]string{"env", "CONTAINERS_CONF=" + podmanConfFile, "PODMAN_IGNORE_CGROUPSV1_WARNING=1", "podman"}, args...)
}

// netavark says whether host k's Podman has its networks by netavark.
func netavark(t testing.TB, k int) bool {
	t.Helper()
	said := must(t, k, "podman", "--version") // podman version 5.4.2
	words := strings.Fields(said)
	major, _, _ := strings.Cut(words[len(words)-1], ".")
	n, err := strconv.Atoi(major)
	if err != nil {
		t.Fatalf("podman says %q: %v", said, err)
	}
	return n >= 5
}

// podmanReady gives host k's Podman its settings and the image.
func podmanReady(t testing.TB, k int) {
	t.Helper()
	conf := podmanConf + podmanByCNI
	if netavark(t, k) {
		conf = podmanConf + podmanByNetavark
		// Podman runs below another root, in which the host's /usr/local/sbin is not.
		must(t, k, "sh", "-c", `mkdir -p "${1%/*}" && ln -sf "$(readlink -f "$(command -v socketplane)")" "$1"`, "sh", netavarkPlugin)
	}
	tryInput(t, k, conf, "sh", "-c", "cat >"+podmanConfFile)
	if try(t, k, podman("image", "exists", lab.Image)...).code != 0 {
		must(t, k, "sh", "-c", "docker save "+lab.Image+" | "+strings.Join(podman("load", "-q"), " "))
	}
}

// podmanNetwork makes a network of the cluster known to host k's Podman, which is ready,
// for this test.
func podmanNetwork(t testing.TB, k int, network string) {
	t.Helper()
	if !netavark(t, k) {
		cniNetwork(t, k, network)
		return
	}
	must(t, k, podman("network", "create", "--driver", "socketplane-netavark", network)...)
	t.Cleanup(func() { must(t, k, podman("network", "rm", "-f", network)...) })
}

// podmanRun is `podman run` on networks, with flags before the image. Podman 5 takes away
// the right to ping.
func podmanRun(k int, flags ...string) []string {
	return podman(append([]string{"run", "--cap-add", "NET_RAW", "--cgroup-parent", fmt.Sprintf("/%s/h%d", lab.Prefix, k)}, flags...)...)
}

// podmanDoor is podman with its networks by CNI or netavark.
func podmanDoor() door {
	verb := func(argv ...string) func(testing.TB, int, string) {
		return func(t testing.TB, k int, name string) {
			t.Helper()
			must(t, k, podman(append(argv, name)...)...)
		}
	}
	return door{
		name: "podman", again: true, // a stopped container's address goes back: CNI and netavark have it so
		prepare: func(t testing.TB, k int, network string) {
			t.Helper()
			podmanReady(t, k)
			podmanNetwork(t, k, network)
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
