package systemtest

import (
	"context"
	"crypto/sha512"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/socketplane/socketplane/agent/systemtest/lab"
)

// cniConfigs is where a lab host has its network configurations.
const cniConfigs = "/etc/cni/net.d"

// cniNetwork makes a network known to CNI on host k, for this test.
func cniNetwork(t testing.TB, k int, network string) {
	t.Helper()
	sp(t, k, "cni", "install", "--network", network)
	t.Cleanup(func() { must(t, k, "rm", "-f", cniFile(network)) })
}

func cniFile(network string) string { return cniConfigs + "/11-socketplane-" + network + ".conflist" }

// cniConfig writes a configuration of one's own, in place of the one that
// install wrote, or beside it.
func cniConfig(t testing.TB, k int, file, text string) {
	t.Helper()
	tryInput(t, k, text, "sh", "-c", `cat >"$1"`, "sh", cniConfigs+"/"+file)
	t.Cleanup(func() { must(t, k, "rm", "-f", cniConfigs+"/"+file) })
}

// cnitool runs the specification's own tool; env are words like CNI_IFNAME=eth1.
func cnitool(t testing.TB, k int, env []string, args ...string) result {
	t.Helper()
	argv := append([]string{"env", "CNI_PATH=/opt/cni/bin:/usr/lib/cni"}, env...)
	return try(t, k, append(append(argv, "cnitool"), args...)...)
}

// cnitoolID is the container id that cnitool makes of a namespace's path.
func cnitoolID(name string) string {
	sum := sha512.Sum512([]byte("/run/netns/" + name))
	return fmt.Sprintf("cnitool-%x", sum[:10])
}

// cnitoolDoor is the tool of the specification: a namespace, and no process.
func cnitoolDoor() door {
	var on sync.Map // network of each container
	return door{
		name: "cnitool", prepare: cniNetwork, exec: inNetns, ref: cnitoolID,
		start: func(t testing.TB, k int, network, name string) {
			t.Helper()
			if r := cnitool(t, k, nil, "add", network, namespace(t, k, name)); r.code != 0 {
				t.Fatalf("h%d: add %s: %s", k, name, r.stderr)
			}
			on.Store(name, network)
		},
		remove: func(t testing.TB, k int, name string) {
			t.Helper()
			network, there := on.LoadAndDelete(name)
			if !there {
				return
			}
			// Also with the namespace gone.
			must(t, k, "ip", "netns", "del", name)
			if r := cnitool(t, k, nil, "del", network.(string), "/run/netns/"+name); r.code != 0 {
				t.Errorf("h%d: del %s: %s", k, name, r.stderr)
			}
		},
	}
}

// The containerd of a lab host is the one that dockerd runs; in a namespace of
// its own nobody else sees these containers.
const ctrSpace = "sptest"

func ctr(args ...string) []string {
	return append([]string{"ctr", "-a", "/run/docker/containerd/containerd.sock", "-n", ctrSpace}, args...)
}

// ctrRun is `ctr run --cni`. It takes the first configuration there is: it gets
// to see only the one of this network.
func ctrRun(k int, network, name string, argv ...string) []string {
	const alone = `mount -t tmpfs tmpfs /mnt && cp "$1" /mnt/ && mount --bind /mnt ` + cniConfigs + ` && shift && exec "$@"`
	run := ctr("run", "--rm", "--cni", "--cgroup", fmt.Sprintf("/%s/h%d/%s", lab.Prefix, k, name), "docker.io/library/"+lab.Image+":latest", name)
	return append(append([]string{"unshare", "-m", "sh", "-c", alone, "sh", cniFile(network)}, run...), argv...)
}

// containerdDoor is containerd with its own client, which stays in the
// foreground as long as the container lives, and then gives its network back.
func containerdDoor() door {
	var running sync.Map // what ends a client, and tells that it has
	kill := func(t testing.TB, k int, name string) {
		t.Helper()
		ended, there := running.LoadAndDelete(name)
		if !there {
			return
		}
		must(t, k, ctr("task", "kill", "-s", "SIGKILL", name)...)
		select {
		case <-ended.(chan struct{}):
		case <-time.After(testTimeout):
			t.Errorf("h%d: ctr run of %s does not end", k, name)
		}
	}
	return door{
		name: "containerd",
		prepare: func(t testing.TB, k int, network string) {
			t.Helper()
			cniNetwork(t, k, network)
			must(t, k, "sh", "-c", "docker save "+lab.Image+" | "+strings.Join(ctr("image", "import", "-"), " "))
		},
		start: func(t testing.TB, k int, network, name string) {
			t.Helper()
			cmd := cluster.Host(k).Command(context.Background(), ctrRun(k, network, name, "sleep", "100000")...)
			var said strings.Builder
			cmd.Stdout, cmd.Stderr = &said, &said
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan struct{})
			go func() { defer close(ended); _ = cmd.Wait() }()
			running.Store(name, ended)
			eventually(t, "containerd runs "+name, func() error {
				select {
				case <-ended:
					t.Fatalf("h%d: ctr run: %s", k, said.String())
				default:
				}
				if out := try(t, k, ctr("task", "ls")...).stdout; !strings.Contains(out, name+" ") || !strings.Contains(out, "RUNNING") {
					return fmt.Errorf("tasks:\n%s", out)
				}
				// ctr makes the task, then its network, then starts it.
				return infoOf(t, k, ctrSpace+"-"+name)
			})
		},
		once: func(t testing.TB, k int, network, name string, argv ...string) string {
			t.Helper()
			return must(t, k, ctrRun(k, network, name, argv...)...)
		},
		exec: func(t testing.TB, k int, name string, argv ...string) result {
			t.Helper()
			return try(t, k, ctr(append([]string{"task", "exec", "--exec-id", fmt.Sprintf("e%d", time.Now().UnixNano()), name}, argv...)...)...)
		},
		ref:  func(name string) string { return ctrSpace + "-" + name },
		kill: kill, remove: kill,
	}
}

// infoOf says whether the agent knows an endpoint.
func infoOf(t testing.TB, k int, ref string) error {
	t.Helper()
	if r := try(t, k, "socketplane", "info", ref); r.code != 0 {
		return fmt.Errorf("%s", r.stderr)
	}
	return nil
}
