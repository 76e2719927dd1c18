package systemtest

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/socketplane/socketplane/agent/systemtest/lab"
)

// door is one way in which a container comes onto a network. What a tool has no
// word for is nil.
type door struct {
	name string
	// prepare readies a host for containers on a network; what it makes goes
	// with the test.
	prepare func(t testing.TB, k int, network string)
	// start starts a container that sleeps.
	start func(t testing.TB, k int, network, name string)
	// once runs a command as a container of its own and gives what it printed.
	once func(t testing.TB, k int, network, name string, argv ...string) string
	// exec runs a command inside a container that runs.
	exec func(t testing.TB, k int, name string, argv ...string) result
	// ref is what `socketplane info` knows the container by; nil: its name.
	ref func(name string) string

	stop, startAgain, restart func(t testing.TB, k int, name string)
	// kill kills the container's process with SIGKILL.
	kill func(t testing.TB, k int, name string)
	// remove takes the container away, running or not.
	remove func(t testing.TB, k int, name string)

	keeps bool // a stopped container keeps its address
	again bool // a container that was killed can be started again
}

// doors are all ways, each by its own tool.
func doors() []door {
	return []door{
		runDoor(), connectDoor(), driverDoor(), proxyDoor(), legacyDoor(),
		cnitoolDoor(), containerdDoor(), podmanDoor(),
	}
}

// inside is a container that came by a door.
type inside struct {
	door
	host    int
	cname   string // the container's name
	network string
	ip      string
}

// enterBy starts a container, and takes it away with the test.
func (d door) enterBy(t testing.TB, k int, network, name string) inside {
	t.Helper()
	d.start(t, k, network, name)
	t.Cleanup(func() { d.remove(t, k, name) })
	c := inside{door: d, host: k, cname: name, network: network}
	c.look(t)
	return c
}

// look reads the container's address, from the agent and from inside.
func (c *inside) look(t testing.TB) {
	t.Helper()
	e := info(t, c.host, c.known())
	if e.Network != c.network || e.Port == "" {
		t.Fatalf("%s: %s is on network %q with port %q, want network %q", c.name, c.cname, e.Network, e.Port, c.network)
	}
	c.ip = e.IP
	shown := c.exec(t, c.host, c.cname, "ip", "-4", "addr", "show", "eth0").stdout
	if !strings.Contains(shown, "inet "+e.IP+"/") {
		t.Fatalf("%s: the agent says %s of %s, which has:\n%s", c.name, e.IP, c.cname, shown)
	}
}

func (c *inside) known() string {
	if c.ref == nil {
		return c.cname
	}
	return c.ref(c.cname)
}

// reaches says whether the container reaches all addresses.
func (c *inside) reaches(t testing.TB, ips ...string) error {
	t.Helper()
	const script = `for ip do ping -c 1 -W 1 $ip >/dev/null || { echo $ip; exit 1; }; done`
	r := c.exec(t, c.host, c.cname, append([]string{"sh", "-c", script, "sh"}, ips...)...)
	if r.code != 0 {
		return fmt.Errorf("%s does not reach %s%s", c.cname, r.stdout, r.stderr)
	}
	return nil
}

// endpointGone waits until host k's agent knows no such endpoint.
func endpointGone(t testing.TB, k int, ref string) {
	t.Helper()
	eventually(t, "the endpoint of "+ref+" goes", func() error {
		if r := try(t, k, "socketplane", "info", ref); r.code == 0 {
			return errors.New(r.stdout)
		}
		return nil
	})
}

// Promise: whichever way a container starts, it has its network before its
// first instruction and reaches the containers of all other ways, here and on
// another host; it lives and ends as its tool has it; in the end nothing is left.
func TestDoors(t *testing.T) {
	const network = "doors"
	makeNetwork(t, 1, network, "10.60.0.0/24")
	all := doors()
	for _, d := range all {
		for k := 1; k <= 2; k++ {
			d.prepare(t, k, network)
		}
	}
	before := [][]string{traces(t, 1), traces(t, 2)}

	t.Run("first instruction", func(t *testing.T) {
		for _, d := range all {
			if d.once == nil {
				continue // no process comes by this door
			}
			if out := d.once(t, 1, network, "first-"+d.name, "ip", "-4", "addr", "show", "eth0"); !strings.Contains(out, "inet 10.60.0.") {
				t.Errorf("%s: the first instruction has no address:\n%s", d.name, out)
			}
		}
	})
	t.Run("each reaches each", func(t *testing.T) {
		var in []inside
		var ips []string
		for _, d := range all {
			for k := 1; k <= 2; k++ {
				c := d.enterBy(t, k, network, fmt.Sprintf("%s-%d", d.name, k))
				in, ips = append(in, c), append(ips, c.ip)
			}
		}
		for _, c := range in {
			eventually(t, c.cname+" reaches all", func() error { return c.reaches(t, ips...) })
		}
	})
	for _, d := range all {
		t.Run(d.name+" lives and ends", func(t *testing.T) { lives(t, d, network) })
	}
	for k := 1; k <= 2; k++ {
		leavesNothing(t, k, before[k-1])
		dockerEmpty(t, k, network)
	}
}

// dockerEmpty waits until Docker on host k has nobody on a network.
func dockerEmpty(t testing.TB, k int, network string) {
	t.Helper()
	eventually(t, fmt.Sprintf("docker on h%d has nobody on %s", k, network), func() error {
		if n := strings.TrimSpace(must(t, k, "docker", "network", "inspect", "-f", "{{len .Containers}}", network)); n != "0" {
			return fmt.Errorf("it has %s:\n%s", n, must(t, k, "docker", "network", "inspect", network))
		}
		return nil
	})
}

// lives leads one container of host 1 through its life, watched from host 2.
func lives(t *testing.T, d door, network string) {
	peer := connectDoor().enterBy(t, 2, network, "peer-"+d.name)
	c := d.enterBy(t, 1, network, "life-"+d.name)
	well := func(when string) {
		t.Helper()
		before := c.ip
		c.look(t)
		if d.keeps && c.ip != before {
			t.Errorf("after %s the address is %s, was %s", when, c.ip, before)
		}
		eventually(t, "reach it after "+when, func() error { return errors.Join(peer.reaches(t, c.ip), c.reaches(t, peer.ip)) })
	}
	stopped := func(when string) {
		t.Helper()
		if !d.keeps {
			endpointGone(t, 1, c.known())
			return
		}
		eventually(t, "it is detached after "+when, func() error {
			if e := info(t, 1, c.known()); e.Port != "" || e.IP != c.ip {
				return fmt.Errorf("it has port %q and address %s", e.Port, e.IP)
			}
			return nil
		})
	}
	if d.stop != nil {
		d.stop(t, 1, c.cname)
		stopped("stop")
		d.startAgain(t, 1, c.cname)
		well("stop and start")
		d.restart(t, 1, c.cname)
		well("restart")
	}
	if d.kill != nil {
		d.kill(t, 1, c.cname)
		stopped("kill -9")
		if d.again {
			d.startAgain(t, 1, c.cname)
			well("kill -9 and start")
		}
	}
	d.remove(t, 1, c.cname)
	endpointGone(t, 1, c.known())
}

// nothingTo is a prepare of a door that needs none.
func nothingTo(testing.TB, int, string) {}

// runDoor is `socketplane run`, and Docker's own words afterwards.
func runDoor() door {
	docker := func(argv ...string) func(testing.TB, int, string) {
		return func(t testing.TB, k int, name string) {
			t.Helper()
			must(t, k, append(append([]string{"docker"}, argv...), name)...)
		}
	}
	return door{
		name: "run", prepare: nothingTo, keeps: true, again: true,
		start: func(t testing.TB, k int, network, name string) {
			t.Helper()
			sp(t, k, "run", "-n", network, "-d", "--name", name, lab.Image, "sleep", "100000")
		},
		once: func(t testing.TB, k int, network, name string, argv ...string) string {
			t.Helper()
			return sp(t, k, append([]string{"run", "--rm", "-n", network, "--name", name, lab.Image}, argv...)...)
		},
		exec: func(t testing.TB, k int, name string, argv ...string) result {
			t.Helper()
			return try(t, k, append([]string{"docker", "exec", name}, argv...)...)
		},
		stop: docker("stop", "-t", "0"), startAgain: docker("start"), restart: docker("restart", "-t", "0"),
		kill: func(t testing.TB, k int, name string) {
			t.Helper()
			must(t, k, "kill", "-9", strings.TrimSpace(must(t, k, "docker", "inspect", "-f", "{{.State.Pid}}", name)))
			must(t, k, "docker", "wait", name) // a start before Docker has heard of it does nothing
		},
		remove: func(t testing.TB, k int, name string) {
			t.Helper()
			if try(t, k, "docker", "inspect", name).code == 0 {
				must(t, k, "docker", "rm", "-f", name)
			}
		},
	}
}

// connectDoor is `socketplane connect`: a namespace, and no process.
func connectDoor() door {
	return door{
		name: "connect", prepare: nothingTo,
		start: func(t testing.TB, k int, network, name string) {
			t.Helper()
			sp(t, k, "connect", "-n", network, "--netns", namespace(t, k, name), "--id", name)
		},
		exec: inNetns,
		remove: func(t testing.TB, k int, name string) {
			t.Helper()
			try(t, k, "socketplane", "disconnect", name) // there is none after a remove
			try(t, k, "ip", "netns", "del", name)
		},
	}
}

// inNetns runs a command in a namespace that has a name.
func inNetns(t testing.TB, k int, name string, argv ...string) result {
	t.Helper()
	return try(t, k, append([]string{"ip", "netns", "exec", name}, argv...)...)
}
