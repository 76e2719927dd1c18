package systemtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/socketplane/socketplane/agent/systemtest/lab"
)

// runByDriver starts a container that sleeps on one of Docker's own networks, and
// removes it at the end.
func runByDriver(t testing.TB, k int, network, name string, flags ...string) container {
	t.Helper()
	args := append([]string{"docker", "run", "-d", "--init", "--net", network, "--name", name}, flags...)
	must(t, k, append(args, lab.Image, "sleep", "100000")...)
	t.Cleanup(func() { removeByDocker(t, k, name) })
	return container{host: k, name: name, ip: dockersIP(t, k, name, network)}
}

func removeByDocker(t testing.TB, k int, name string) {
	t.Helper()
	if r := try(t, k, "docker", "rm", "-f", name); r.code != 0 && !strings.Contains(r.stderr, "No such container") {
		t.Errorf("h%d: remove %s: %s", k, name, r.stderr)
	}
}

func dockersIP(t testing.TB, k int, name, network string) string {
	t.Helper()
	return strings.TrimSpace(must(t, k, "docker", "inspect", "-f", `{{(index .NetworkSettings.Networks "`+network+`").IPAddress}}`, name))
}

// dockerHas waits until Docker on host k has a network, or has it no more.
func dockerHas(t testing.TB, k int, network string, want bool) {
	t.Helper()
	eventually(t, fmt.Sprintf("docker on h%d has network %s: %v", k, network, want), func() error {
		names := strings.Fields(must(t, k, "docker", "network", "ls", "--format", "{{.Name}}"))
		if slices.Contains(names, network) != want {
			return fmt.Errorf("it has %q", names)
		}
		return nil
	})
}

// nobodyOn waits until no host has an endpoint on a network: Docker asks once
// whether it can go.
func nobodyOn(t testing.TB, network string) {
	t.Helper()
	eventually(t, "nobody is on "+network, func() error {
		if lists := kv(t, "endpoints/"+network+"/"); len(lists) > 0 {
			return fmt.Errorf("%v", lists)
		}
		return nil
	})
}

// described waits until the agent knows whose an address is, and has told the
// bridge and the store, which it does a moment later.
func described(t testing.TB, c container) {
	t.Helper()
	eventually(t, "info knows "+c.name, func() error {
		var e endpoint
		r := try(t, c.host, "socketplane", "info", c.name, "-o", "json")
		if r.code != 0 {
			return errors.New(r.stderr)
		}
		if err := json.Unmarshal([]byte(r.stdout), &e); err != nil || e.IP != c.ip || len(e.ContainerID) != 64 {
			return fmt.Errorf("%+v, %v; its address is %s", e, err, c.ip)
		}
		for _, list := range kv(t, "endpoints/"+e.Network+"/") {
			if strings.Contains(list, `"container_name":"`+c.name+`"`) {
				return nil
			}
		}
		return errors.New("the store does not know its name yet")
	})
}

// Promise: every network is there in Docker on every host by itself, and containers
// that plain Docker starts on it have its addresses and reach each other and those
// of `socketplane run` across hosts; their first instruction has the network; stop,
// start, restart, a kill and rm go as with Docker's own, and nothing is left.
func TestDockersNetworks(t *testing.T) {
	makeNetwork(t, 1, "drv", "10.180.0.0/24")
	var before [4][]string
	for k := 1; k <= 3; k++ {
		dockerHas(t, k, "drv", true)
		dockerHas(t, k, "socketplane", true) // default: Docker keeps that name for itself
		before[k] = traces(t, k)
	}
	if out := must(t, 2, "docker", "run", "--rm", "--net", "socketplane", lab.Image, "ip", "-4", "addr", "show", "eth0"); !strings.Contains(out, "inet 10.1.") {
		t.Errorf("a container of --net socketplane is on the network default, and has:\n%s", out)
	}
	out := must(t, 3, "docker", "run", "--rm", "--net", "drv", lab.Image, "ip", "-4", "addr", "show", "eth0")
	if !strings.Contains(out, "inet 10.180.0.") || !strings.Contains(out, "mtu 1450") {
		t.Errorf("the first instruction sees:\n%s", out)
	}
	a := runByDriver(t, 1, "drv", "drv-a")
	b := runByDriver(t, 2, "drv", "drv-b", "--ip", "10.180.0.200")
	c := runContainer(t, 3, "drv", "drv-c")
	if b.ip != "10.180.0.200" {
		t.Errorf("asked for 10.180.0.200, got %s", b.ip)
	}
	all := []container{a, b, c}
	reach := func(when string) {
		t.Helper()
		for _, from := range all {
			for _, to := range append(slices.Clone(all), container{ip: "203.0.113.1"}) {
				eventually(t, fmt.Sprintf("%s: %s reaches %s", when, from.name, to.ip), func() error { return from.pings(t, to.ip) })
			}
		}
	}
	reach("at first")
	if err := a.pings(t, b.ip, "-s", "1422", "-M", "do", "-W", "10"); err != nil {
		t.Errorf("full-size ping: %v", err)
	}
	described(t, a)
	described(t, b)
	inspect := must(t, 2, "docker", "network", "inspect", "drv")
	if !strings.Contains(inspect, `"10.180.0.200/24"`) || !strings.Contains(inspect, "02:42:0a:b4:00:c8") {
		t.Errorf("docker network inspect does not tell the truth:\n%s", inspect)
	}
	eventually(t, "an address that is taken, and h1 knows by whom", func() error {
		r := try(t, 1, "docker", "run", "--rm", "--net", "drv", "--ip", "10.180.0.200", lab.Image, "true")
		if r.code != 125 || !strings.Contains(r.stderr, `taken by "drv-b" on host "h2"`) {
			return fmt.Errorf("%d %q", r.code, r.stderr)
		}
		return nil
	})

	for _, verbs := range []string{"restart -t 1", "stop -t 1,start", "kill,start"} {
		for verb := range strings.SplitSeq(verbs, ",") {
			must(t, 2, append(append([]string{"docker"}, strings.Fields(verb)...), "drv-b")...)
		}
		if got := dockersIP(t, 2, "drv-b", "drv"); got != b.ip {
			t.Fatalf("after %s it has %s", verbs, got)
		}
		reach("after " + verbs)
	}
	// Stopped, it has neither interface nor address, as Docker's own networks have it.
	must(t, 1, "docker", "stop", "-t", "1", "drv-a")
	eventually(t, "its address is free", func() error {
		for addr, owner := range held(t, "10.180.0.0/24") {
			if addr.String() == a.ip {
				return fmt.Errorf("%s has it", owner)
			}
		}
		return nil
	})
	must(t, 1, "docker", "start", "drv-a")
	all[0].ip = dockersIP(t, 1, "drv-a", "drv")
	reach("after a stop and a start")

	removeByDocker(t, 1, "drv-a")
	removeByDocker(t, 2, "drv-b")
	remove(t, 3, "drv-c")
	for k := 1; k <= 3; k++ {
		leavesNothing(t, k, before[k])
	}
}

// Promise: a running container can join a second network and leave it; a MAC
// address that was asked for is its own.
func TestDockerConnect(t *testing.T) {
	makeNetwork(t, 1, "drv1", "10.181.0.0/24")
	makeNetwork(t, 1, "drv2", "10.182.0.0/24")
	for k := 1; k <= 2; k++ {
		dockerHas(t, k, "drv1", true)
		dockerHas(t, k, "drv2", true)
	}
	before := traces(t, 1)
	a := runByDriver(t, 1, "drv1", "dc-a")
	one, two := runByDriver(t, 2, "drv1", "dc-1"), runByDriver(t, 2, "drv2", "dc-2")
	must(t, 1, "docker", "network", "connect", "--ip", "10.182.0.77", "drv2", "dc-a")
	for _, ip := range []string{one.ip, two.ip, "203.0.113.1"} {
		eventually(t, "reach "+ip, func() error { return a.pings(t, ip) })
	}
	eventually(t, "be reached on the second network", func() error { return two.pings(t, "10.182.0.77") })
	links := a.exec(t, "ip", "addr").stdout
	if !strings.Contains(links, "eth0") || !strings.Contains(links, "eth1") || strings.Contains(links, "172.") {
		t.Errorf("its interfaces are:\n%s", links)
	}
	must(t, 1, "docker", "network", "disconnect", "drv2", "dc-a")
	if err := two.pings(t, "10.182.0.77"); err == nil {
		t.Error("it still answers on the network that it left")
	}
	eventually(t, "the first network works on", func() error { return a.pings(t, one.ip) })

	// Newer command lines refuse a daemon of this age its --mac-address.
	// Docker 25 and newer take it from the endpoint.
	body := `{"Image":"` + lab.Image + `","Cmd":["sleep","100000"],"MacAddress":"02:00:00:00:aa:01","HostConfig":{"Init":true,"NetworkMode":"drv1"},` +
		`"NetworkingConfig":{"EndpointsConfig":{"drv1":{"MacAddress":"02:00:00:00:aa:01"}}}}`
	resp, err := overSocket(t, 1, "/run/docker.sock").Post("http://docker/containers/create?name=dc-mac", "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	said, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		t.Fatalf("create: %s: %s", resp.Status, said)
	}
	t.Cleanup(func() { removeByDocker(t, 1, "dc-mac") })
	must(t, 1, "docker", "start", "dc-mac")
	m := container{host: 1, name: "dc-mac", ip: dockersIP(t, 1, "dc-mac", "drv1")}
	if shown := m.exec(t, "ip", "link", "show", "eth0").stdout; !strings.Contains(shown, "02:00:00:00:aa:01") {
		t.Errorf("its interface is:\n%s", shown)
	}
	eventually(t, "it is reached across hosts", func() error { return one.pings(t, m.ip) })
	eventually(t, "and on its host", func() error { return a.pings(t, m.ip) })
	removeByDocker(t, 1, "dc-mac")
	removeByDocker(t, 1, "dc-a")
	leavesNothing(t, 1, before, "endpoints/drv1", "endpoints/drv2", "ipam/10.181", "ipam/10.182")
}

// Promise: a network that is made through Docker on one host is the cluster's and
// in Docker on the others; removed there, it is gone everywhere. What cannot be is
// refused with its reason, and leaves nothing.
func TestDockerMakesNetworks(t *testing.T) {
	create := func(args ...string) []string {
		return append([]string{"docker", "network", "create", "-d", "socketplane"}, args...)
	}
	ipam := []string{"--ipam-driver", "socketplane"}
	before := traces(t, 1)
	must(t, 1, create(append(ipam, "--subnet", "10.183.0.0/24", "--gateway", "10.183.0.254", "made")...)...)
	a := runByDriver(t, 1, "made", "made-a") // at once
	dockerHas(t, 3, "made", true)
	b := runByDriver(t, 3, "made", "made-b")
	eventually(t, "reach it across hosts", func() error { return a.pings(t, b.ip) })
	eventually(t, "reach the outside", func() error { return b.pings(t, "203.0.113.1") })
	if route := b.exec(t, "ip", "route").stdout; !strings.Contains(route, "default via 10.183.0.254") {
		t.Errorf("its routes are:\n%s", route)
	}
	if shown := sp(t, 2, "network", "info", "made", "-o", "json"); !strings.Contains(shown, "10.183.0.254") {
		t.Errorf("the network is %s", shown)
	}

	for _, bad := range []struct {
		args []string
		says string
	}{
		{[]string{"--subnet", "10.184.0.0/24", "bad"}, "add --ipam-driver socketplane"},
		{append(ipam, "--subnet", "10.183.0.0/25", "bad"), `overlaps network "made"`},
		{append(ipam, "--subnet", "10.183.0.0/24", "bad"), `is that of network "made"`},
		{append(ipam, "--subnet", "198.18.0.0/24", "bad"), "overlaps route"},
		{append(ipam, "--subnet", "10.184.0.0/24", "--gateway", "10.184.0.255", "bad"), "broadcast address"},
		{append(ipam, "--subnet", "10.184.0.0/24", "--internal", "bad"), "--internal cannot be used"},
		{append(ipam, "--subnet", "10.184.0.0/24", "-o", "encrypted=true", "bad"), `"encrypted"`},
		{append(ipam, "--subnet", "10.184.0.0/24", "-o", "com.docker.network.driver.mtu=1300", "bad"), "the MTU is 1450"},
		{append(ipam, "--subnet", "fd00::/64", "--ipv6", "bad"), "networks are IPv4"},
		{append(ipam, "--subnet", "10.184.0.0/24", "-o", "socketplane.network=a b", "bad"), "may hold only letters"},
	} {
		r := try(t, 2, create(bad.args...)...)
		if r.code == 0 || !strings.Contains(r.stderr, bad.says) {
			t.Errorf("%q: %d %s", bad.args, r.code, r.stderr)
		}
	}
	eventually(t, "the refused ones leave nothing", func() error {
		if out := sp(t, 1, "network", "list"); strings.Contains(out, "10.184.") || strings.Contains(out, "bad") {
			return errors.New(out)
		}
		return nil
	})
	dockerHas(t, 2, "bad", false)

	// In use elsewhere: it stays, and comes back where it was removed.
	dockerHas(t, 2, "made", true)
	must(t, 2, "docker", "network", "rm", "made")
	dockerHas(t, 2, "made", true)
	eventually(t, "it works on", func() error { return a.pings(t, b.ip) })
	removeByDocker(t, 1, "made-a")
	removeByDocker(t, 3, "made-b")
	nobodyOn(t, "made")
	must(t, 2, "docker", "network", "rm", "made")
	for k := 1; k <= 3; k++ {
		dockerHas(t, k, "made", false)
	}
	eventually(t, "the cluster has it no more", func() error {
		if r := try(t, 3, "socketplane", "network", "info", "made"); r.code != 1 {
			return errors.New(r.stdout + r.stderr)
		}
		return nil
	})
	// One that was not made through Docker is not taken from all hosts by one
	// host's prune.
	sp(t, 1, "network", "create", "pruned", "10.183.0.0/24")
	dockerHas(t, 2, "pruned", true)
	must(t, 2, "docker", "network", "prune", "-f")
	dockerHas(t, 2, "pruned", true)
	sp(t, 3, "network", "delete", "pruned")
	// One that names its network otherwise than itself.
	must(t, 1, create(append(ipam, "--subnet", "10.184.0.0/24", "-o", "socketplane.network=theirs", "ours")...)...)
	dockerHas(t, 2, "theirs", true)
	dockerHas(t, 1, "theirs", false)
	sp(t, 3, "network", "delete", "theirs")
	dockerHas(t, 1, "ours", false)
	dockerHas(t, 2, "theirs", false)
	leavesNothing(t, 1, before)
}
