package systemtest

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// Promise: what ends while the agent is down is released once it is back, and
// nothing of it is left: a container of Docker's networks that dies, one that is
// removed, one of podman's, a namespace of CNI's. Who lives is not touched.
func TestEndsWhileTheAgentIsDown(t *testing.T) {
	makeNetwork(t, 1, "ended", "10.188.0.0/24")
	dockerHas(t, 1, "ended", true)
	cniNetwork(t, 1, "ended")
	podmanReady(t, 1)
	if netavark(t, 1) {
		podmanNetwork(t, 1, "ended")
	}
	peer := runContainer(t, 2, "ended", "en-peer")
	before := traces(t, 1)
	lives := runByDriver(t, 1, "ended", "en-lives")
	described(t, lives)
	with := traces(t, 1)
	dies, removed := runByDriver(t, 1, "ended", "en-dies", "--rm"), runByDriver(t, 1, "ended", "en-removed")
	described(t, dies)
	described(t, removed)
	byPodman := podmanDoor().enterBy(t, 1, "ended", "en-podman")
	if r := cnitool(t, 1, nil, "add", "ended", namespace(t, 1, "en-cni")); r.code != 0 {
		t.Fatal(r.stderr)
	}
	process := pidOf(t, removed)

	killAgent(t, 1)
	must(t, 1, "kill", "-9", pidOf(t, dies))
	if os.Getenv("SOCKETPLANE_TEST_LONG") != "" {
		byPodman.kill(t, 1, byPodman.cname) // until podman has given up, which is after the plugin's patience
	} else {
		must(t, 1, "kill", "-9", strings.TrimSpace(must(t, 1, podman("inspect", "-f", "{{.State.Pid}}", byPodman.cname)...)))
	}
	must(t, 1, "ip", "netns", "del", "en-cni")
	// Docker calls the driver until it answers: that must not be waited for here.
	ended := make(chan result, 1)
	go func() {
		defer close(ended) // also when the test fails in there
		ended <- try(t, 1, "docker", "rm", "-f", removed.name)
	}()
	eventually(t, "the process ends", func() error {
		if try(t, 1, "kill", "-0", process).code == 0 {
			return fmt.Errorf("%s lives", process)
		}
		return nil
	})
	sp(t, 1, "agent", "start")
	awaitAgent(t, 1)
	if r := <-ended; r.code != 0 {
		t.Errorf("rm -f: %s", r.stderr)
	}
	for _, ref := range []string{dies.name, removed.name, byPodman.known(), cnitoolID("en-cni")} {
		endpointGone(t, 1, ref)
	}
	leavesNothing(t, 1, with)
	if r := cnitool(t, 1, nil, "del", "ended", "/run/netns/en-cni"); r.code != 0 {
		t.Errorf("del of what is gone: %s", r.stderr)
	}
	dockersOnly(t, "ended", lives.name)
	eventually(t, "who lives is reached", func() error { return peer.pings(t, lives.ip) })
	removeByDocker(t, 1, lives.name)
	leavesNothing(t, 1, before)
}

// dockersOnly waits until Docker on host 1 has one container on a network, and
// no other.
func dockersOnly(t testing.TB, network, name string) {
	t.Helper()
	eventually(t, "docker has only "+name+" on "+network, func() error {
		names := strings.TrimSpace(must(t, 1, "docker", "network", "inspect", "-f", "{{range .Containers}}{{.Name}} {{end}}", network))
		if names != name {
			return fmt.Errorf("it has %q", names)
		}
		return nil
	})
}
