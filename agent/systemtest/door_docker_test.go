package systemtest

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/socketplane/socketplane/agent/systemtest/lab"
)

// proxied has the docker program speak to the proxy that proxyDoor prepares.
var proxied = []string{"env", "DOCKER_HOST=unix:///run/socketplane/door-proxy.sock"}

// driverDoor is plain Docker on one of its own networks.
func driverDoor() door {
	d := dockersOwn(nil, func(network string) []string { return []string{"--net", network} })
	d.name = "driver"
	d.prepare = func(t testing.TB, k int, network string) { dockerHas(t, k, network, true) }
	return d
}

// proxyDoor is Docker through our proxy, with the network named in the
// container's environment.
func proxyDoor() door {
	d := dockersOwn(proxied, func(network string) []string { return []string{"-e", "SP_NETWORK=" + network} })
	d.name = "proxy"
	d.prepare = func(t testing.TB, k int, network string) {
		t.Helper()
		pid := strings.TrimSpace(must(t, k, "sh", "-c",
			"socketplane proxy --listen unix:///run/socketplane/door-proxy.sock >/var/log/door-proxy.log 2>&1 </dev/null & echo $!"))
		t.Cleanup(func() { must(t, k, "kill", pid) })
		eventually(t, "the proxy answers", func() error {
			if r := try(t, k, append(proxied, "docker", "version")...); r.code != 0 {
				return errors.New(r.stderr)
			}
			return nil
		})
		dockerHas(t, k, network, true)
	}
	return d
}

// dockersOwn is a door whose containers are on one of Docker's own networks: a
// stopped one has no address.
func dockersOwn(env []string, flags func(network string) []string) door {
	docker := func(argv ...string) []string {
		return append(append([]string{}, env...), append([]string{"docker"}, argv...)...)
	}
	verb := func(argv ...string) func(testing.TB, int, string) {
		return func(t testing.TB, k int, name string) {
			t.Helper()
			must(t, k, append(docker(argv...), name)...)
		}
	}
	// Docker says who has joined a moment after the start.
	known := func(t testing.TB, k int, name string) {
		t.Helper()
		eventually(t, "info knows "+name, func() error {
			if r := try(t, k, "socketplane", "info", name); r.code != 0 {
				return errors.New(r.stderr)
			}
			return nil
		})
	}
	d := runDoor()
	d.keeps = false
	d.start = func(t testing.TB, k int, network, name string) {
		t.Helper()
		must(t, k, append(docker(append([]string{"run", "-d", "--name", name}, flags(network)...)...), lab.Image, "sleep", "100000")...)
		known(t, k, name)
	}
	d.once = func(t testing.TB, k int, network, name string, argv ...string) string {
		t.Helper()
		args := append([]string{"run", "--rm", "--name", name}, flags(network)...)
		return must(t, k, append(docker(append(args, lab.Image)...), argv...)...)
	}
	d.stop = verb("stop", "-t", "0")
	start, restart := verb("start"), verb("restart", "-t", "0")
	d.startAgain = func(t testing.TB, k int, name string) { t.Helper(); start(t, k, name); known(t, k, name) }
	d.restart = func(t testing.TB, k int, name string) { t.Helper(); restart(t, k, name); known(t, k, name) }
	return d
}

// legacyDoor is the API of 2015: a container without a network is given one by
// the id of its process. Whoever starts it again has to ask again.
func legacyDoor() door {
	ask := func(t testing.TB, k int, network, name string) {
		t.Helper()
		fields := strings.Fields(must(t, k, "docker", "inspect", "-f", "{{.Id}} {{.State.Pid}}", name))
		must(t, k, "curl", "-sSf", "--unix-socket", "/run/socketplane/socketplane.sock", "-X", "POST", "http://agent/v0.1/connections", "-d",
			fmt.Sprintf(`{"container_id":%q,"container_name":%q,"container_pid":%q,"network":%q}`, fields[0], name, fields[1], network))
	}
	var on sync.Map // network of each container
	again := func(verb func(testing.TB, int, string)) func(testing.TB, int, string) {
		return func(t testing.TB, k int, name string) {
			t.Helper()
			verb(t, k, name)
			network, _ := on.Load(name)
			ask(t, k, network.(string), name)
		}
	}
	d := runDoor()
	d.name, d.keeps, d.once = "legacy", false, nil
	d.start = func(t testing.TB, k int, network, name string) {
		t.Helper()
		must(t, k, "docker", "run", "-d", "--net", "none", "--name", name, lab.Image, "sleep", "100000")
		on.Store(name, network)
		ask(t, k, network, name)
	}
	d.startAgain, d.restart = again(d.startAgain), again(d.restart)
	return d
}
