package systemtest

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/socketplane/socketplane/agent/systemtest/lab"
)

// address gives the address of a container as the agent of its host knows it.
func address(t testing.TB, k int, container string) string {
	t.Helper()
	var got string
	eventually(t, "h"+fmt.Sprint(k)+" knows "+container, func() error {
		r := try(t, k, "socketplane", "info", container, "-o", "json")
		if r.code != 0 {
			return fmt.Errorf("%s", r.stderr)
		}
		_, rest, _ := strings.Cut(r.stdout, `"ip": "`)
		got, _, _ = strings.Cut(rest, `"`)
		if _, err := netip.ParseAddr(got); err != nil {
			return fmt.Errorf("no address in %s", r.stdout)
		}
		return nil
	})
	return got
}

// runBySocketplane starts a container by `socketplane run` and gives its address.
func runBySocketplane(t testing.TB, k int, network, name string, flags ...string) string {
	t.Helper()
	args := append([]string{"socketplane", "run", "-n", network, "-d", "--init", "--name", name}, flags...)
	must(t, k, append(args, lab.Image, "sleep", "100000")...)
	t.Cleanup(func() { removeByDocker(t, k, name) })
	return address(t, k, name)
}

// Promise: a container that was made with --ip has that address when it starts first,
// however many others come before; removed, it leaves nothing.
func TestCreatedKeepsItsAddress(t *testing.T) {
	makeNetwork(t, 1, "crt", "10.208.0.0/29")
	for k := 1; k <= 2; k++ {
		dockerHas(t, k, "crt", true)
	}
	before := traces(t, 1)
	created := func() error {
		if out := sp(t, 2, "network", "info", "crt"); !strings.Contains(out, "crt-fixed") || !strings.Contains(out, "10.208.0.2") {
			return fmt.Errorf("no crt-fixed in\n%s", out)
		}
		return nil
	}
	must(t, 1, "docker", "create", "--net", "crt", "--ip", "10.208.0.2", "--name", "crt-fixed", lab.Image, "sleep", "100000")
	t.Cleanup(func() { try(t, 1, "docker", "rm", "-f", "crt-fixed") })
	eventually(t, "its address is kept", created)
	var others []container // all that fit
	for k := 1; k <= 2; k++ {
		for i := range 2 {
			others = append(others, runByDriver(t, k, "crt", fmt.Sprintf("crt-%d-%d", k, i)))
		}
	}
	sp(t, 1, "agent", "restart")
	eventually(t, "its address is kept over a restart", created)
	must(t, 1, "docker", "start", "crt-fixed")
	if ip := dockersIP(t, 1, "crt-fixed", "crt"); ip != "10.208.0.2" {
		t.Errorf("it has %s", ip)
	}
	fixed := container{host: 1, name: "crt-fixed", ip: "10.208.0.2"}
	for _, c := range others {
		eventually(t, "reach "+c.name, func() error { return fixed.pings(t, c.ip) })
		removeByDocker(t, c.host, c.name)
	}
	removeByDocker(t, 1, "crt-fixed")
	// One that never runs. And docker run --ip, which starts what it makes at once.
	must(t, 1, "docker", "create", "--net", "crt", "--ip", "10.208.0.2", "--name", "crt-fixed", lab.Image, "sleep", "100000")
	eventually(t, "its address is kept", created)
	must(t, 1, "docker", "rm", "crt-fixed")
	for range 5 {
		must(t, 1, "docker", "run", "--rm", "--net", "crt", "--ip", "10.208.0.3", lab.Image, "true")
	}
	leavesNothing(t, 1, before)
}

// Promise: an address of --aux-address is given to nobody, on no host and by no door.
func TestAuxAddresses(t *testing.T) {
	before := traces(t, 1)
	must(t, 1, "docker", "network", "create", "-d", "socketplane", "--ipam-driver", "socketplane", "--subnet", "10.209.0.0/29",
		"--aux-address", "router=10.209.0.2", "--aux-address", "printer=10.209.0.4", "aux")
	t.Cleanup(func() { try(t, 1, "docker", "network", "rm", "aux") })
	dockerHas(t, 2, "aux", true)
	shown := strings.TrimSpace(must(t, 2, "docker", "network", "inspect", "-f", "{{json (index .IPAM.Config 0).AuxiliaryAddresses}}", "aux"))
	if shown != `{"printer":"10.209.0.4","router":"10.209.0.2"}` {
		t.Errorf("docker on h2 shows %s", shown)
	}
	got := []string{
		runByDriver(t, 1, "aux", "aux-1").ip, runByDriver(t, 2, "aux", "aux-2").ip, runBySocketplane(t, 2, "aux", "aux-3"),
	}
	slices.Sort(got)
	if want := []string{"10.209.0.3", "10.209.0.5", "10.209.0.6"}; !slices.Equal(got, want) {
		t.Errorf("addresses %v, want %v", got, want)
	}
	for _, k := range []int{1, 2} {
		if r := try(t, k, "docker", "run", "--rm", "--net", "aux", lab.Image, "true"); r.code != 125 || !strings.Contains(r.stderr, "no address is free") {
			t.Errorf("one more on h%d: %d %s", k, r.code, r.stderr)
		}
		if r := try(t, k, "docker", "run", "--rm", "--net", "aux", "--ip", "10.209.0.2", lab.Image, "true"); r.code != 125 || !strings.Contains(r.stderr, "kept from containers") {
			t.Errorf("by name on h%d: %d %s", k, r.code, r.stderr)
		}
		if r := try(t, k, "socketplane", "run", "-n", "aux", "--ip", "10.209.0.4", "--rm", lab.Image, "true"); r.code == 0 || !strings.Contains(r.stderr, "kept from containers") {
			t.Errorf("by name with socketplane on h%d: %d %s", k, r.code, r.stderr)
		}
	}
	if r := try(t, 1, "docker", "network", "create", "-d", "socketplane", "--ipam-driver", "socketplane", "--subnet", "10.210.0.0/29",
		"--aux-address", "router=10.210.0.1", "aux-bad"); r.code == 0 || !strings.Contains(r.stderr, "is the network's gateway") {
		t.Errorf("the gateway: %d %s", r.code, r.stderr)
	}
	for _, name := range []string{"aux-1", "aux-2", "aux-3"} {
		for k := 1; k <= 2; k++ {
			try(t, k, "docker", "rm", "-f", name)
		}
	}
	nobodyOn(t, "aux")
	must(t, 1, "docker", "network", "rm", "aux")
	dockerHas(t, 2, "aux", false)
	leavesNothing(t, 1, before)
}

// Promise: with --dynamic, whoever asks for no address has one of that part, on every
// host and by every door; by name, any can be had.
func TestDynamicAddresses(t *testing.T) {
	if out := sp(t, 1, "network", "create", "dyn", "10.211.0.0/24", "--dynamic", "10.211.0.128/30"); !strings.Contains(out, "Dynamic addresses: from 10.211.0.128/30") {
		t.Errorf("%s", out)
	}
	t.Cleanup(func() { try(t, 1, "socketplane", "network", "delete", "dyn") })
	for k := 1; k <= 2; k++ {
		dockerHas(t, k, "dyn", true)
	}
	before := traces(t, 1)
	ns := namespace(t, 2, "dyn-ns")
	must(t, 2, "socketplane", "connect", "-n", "dyn", "--netns", ns, "--id", "dyn-4")
	got := []string{
		runByDriver(t, 1, "dyn", "dyn-1").ip, runByDriver(t, 2, "dyn", "dyn-2").ip, runBySocketplane(t, 1, "dyn", "dyn-3"), address(t, 2, "dyn-4"),
	}
	slices.Sort(got)
	if want := []string{"10.211.0.128", "10.211.0.129", "10.211.0.130", "10.211.0.131"}; !slices.Equal(got, want) {
		t.Errorf("addresses %v, want %v", got, want)
	}
	if r := try(t, 2, "docker", "run", "--rm", "--net", "dyn", lab.Image, "true"); r.code != 125 || !strings.Contains(r.stderr, "range 10.211.0.128/30") {
		t.Errorf("one more: %d %s", r.code, r.stderr)
	}
	named := runByDriver(t, 2, "dyn", "dyn-5", "--ip", "10.211.0.9")
	eventually(t, "reach it across hosts", func() error { return container{host: 1, name: "dyn-1"}.pings(t, named.ip) })
	must(t, 2, "socketplane", "disconnect", "dyn-4")
	for k, names := range map[int][]string{1: {"dyn-1", "dyn-3"}, 2: {"dyn-2", "dyn-5"}} {
		for _, name := range names {
			removeByDocker(t, k, name)
		}
	}
	leavesNothing(t, 1, before)
}
