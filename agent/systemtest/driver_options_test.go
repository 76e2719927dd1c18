package systemtest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/socketplane/socketplane/agent/systemtest/lab"
)

// Promise: a stopped container that was given its address with --ip has it again
// when it starts, however many others come meanwhile; removed, it leaves nothing.
func TestStoppedKeepsItsAddress(t *testing.T) {
	makeNetwork(t, 1, "keep", "10.205.0.0/29")
	for k := 1; k <= 2; k++ {
		dockerHas(t, k, "keep", true)
	}
	before := traces(t, 1)
	runByDriver(t, 1, "keep", "keep-fixed", "--ip", "10.205.0.2")
	must(t, 1, "docker", "stop", "-t", "1", "keep-fixed")
	var others []container // all that fit
	for k := 1; k <= 2; k++ {
		for i := range 2 {
			others = append(others, runByDriver(t, k, "keep", fmt.Sprintf("keep-%d-%d", k, i)))
		}
	}
	// Every host knows of all of them, and whose the kept address is.
	eventually(t, "h2 shows the endpoints of both hosts", func() error {
		out := sp(t, 2, "network", "info", "keep")
		for _, name := range []string{"keep-fixed", "stopped", "keep-1-0", "keep-2-1", "h1", "h2"} {
			if !strings.Contains(out, name) {
				return fmt.Errorf("no %s in\n%s", name, out)
			}
		}
		return nil
	})
	for _, k := range []int{1, 2} {
		r := try(t, k, "docker", "run", "--rm", "--net", "keep", lab.Image, "true")
		if r.code != 125 || !strings.Contains(r.stderr, "no address is free") {
			t.Errorf("one more on h%d: %d %s", k, r.code, r.stderr)
		}
	}
	must(t, 1, "docker", "start", "keep-fixed")
	if ip := dockersIP(t, 1, "keep-fixed", "keep"); ip != "10.205.0.2" {
		t.Errorf("it has %s now", ip)
	}
	fixed := container{host: 1, name: "keep-fixed", ip: "10.205.0.2"}
	for _, c := range others {
		eventually(t, "reach "+c.name, func() error { return fixed.pings(t, c.ip) })
	}
	// Stopped again, and the agent begins anew: it learns of Docker whose it is.
	must(t, 1, "docker", "stop", "-t", "1", "keep-fixed")
	sp(t, 1, "agent", "restart")
	must(t, 1, "docker", "start", "keep-fixed")
	must(t, 1, "docker", "stop", "-t", "1", "keep-fixed")
	must(t, 1, "docker", "rm", "keep-fixed")
	eventually(t, "its address is free", func() error {
		for addr, owner := range held(t, "10.205.0.0/29") {
			if addr.String() == "10.205.0.2" {
				return fmt.Errorf("%s has it", owner)
			}
		}
		return nil
	})
	for _, c := range others {
		removeByDocker(t, c.host, c.name)
	}
	leavesNothing(t, 1, before)
}

// Promise: with --ip-range the containers of that Docker have addresses of the range,
// and others may be asked for by name.
func TestDockersRange(t *testing.T) {
	before := traces(t, 1)
	must(t, 1, "docker", "network", "create", "-d", "socketplane", "--ipam-driver", "socketplane", "--subnet", "10.207.0.0/24", "--ip-range", "10.207.0.128/31", "ranged")
	t.Cleanup(func() { try(t, 1, "docker", "network", "rm", "ranged") })
	dockerHas(t, 2, "ranged", true)
	one, two, other := runByDriver(t, 1, "ranged", "rng-1"), runByDriver(t, 1, "ranged", "rng-2"), runByDriver(t, 2, "ranged", "rng-3")
	for _, c := range []container{one, two} {
		if c.ip != "10.207.0.128" && c.ip != "10.207.0.129" {
			t.Errorf("%s has %s", c.name, c.ip)
		}
	}
	if r := try(t, 1, "docker", "run", "--rm", "--net", "ranged", lab.Image, "true"); r.code != 125 || !strings.Contains(r.stderr, "range 10.207.0.128/31") {
		t.Errorf("one more: %d %s", r.code, r.stderr)
	}
	must(t, 1, "docker", "run", "--rm", "--net", "ranged", "--ip", "10.207.0.9", lab.Image, "true")
	eventually(t, "reach it across hosts", func() error { return one.pings(t, other.ip) })
	removeByDocker(t, 1, "rng-1")
	removeByDocker(t, 1, "rng-2")
	removeByDocker(t, 2, "rng-3")
	nobodyOn(t, "ranged")
	must(t, 1, "docker", "network", "rm", "ranged")
	dockerHas(t, 2, "ranged", false)
	leavesNothing(t, 1, before)
}

// Promise: a Docker network whose name the cluster cannot take works all the same.
func TestDockersNames(t *testing.T) {
	before := traces(t, 1)
	must(t, 1, "docker", "network", "create", "-d", "socketplane", "--ipam-driver", "socketplane", "--subnet", "10.206.0.0/24", "my net")
	t.Cleanup(func() { try(t, 1, "docker", "network", "rm", "my net") })
	dockerHas(t, 2, "my-net-b973a0eb", true)
	a, b := runByDriver(t, 1, "my net", "names-a"), runByDriver(t, 2, "my-net-b973a0eb", "names-b")
	eventually(t, "reach it across hosts", func() error { return a.pings(t, b.ip) })
	removeByDocker(t, 1, "names-a")
	removeByDocker(t, 2, "names-b")
	nobodyOn(t, "my-net-b973a0eb")
	must(t, 1, "docker", "network", "rm", "my net")
	dockerHas(t, 2, "my-net-b973a0eb", false)
	leavesNothing(t, 1, before)
}
