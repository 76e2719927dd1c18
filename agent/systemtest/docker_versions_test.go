package systemtest

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/socketplane/socketplane/agent/systemtest/lab"
)

// dockerMajor is the major version of a host's dockerd.
func dockerMajor(t testing.TB, k int) int {
	t.Helper()
	text := strings.TrimSpace(must(t, k, "docker", "version", "-f", "{{.Server.Version}}"))
	major, _, _ := strings.Cut(text, ".")
	n, err := strconv.Atoi(major)
	if err != nil {
		t.Fatalf("docker's version is %q: %v", text, err)
	}
	return n
}

// Promise: what a network cannot be is refused in words, by every version of Docker,
// and leaves nothing.
func TestDockersRefusals(t *testing.T) {
	before := traces(t, 1)
	type refusal struct{ flags, said string }
	refusals := []refusal{
		{"--internal", "--internal cannot be used"},
		{"-o encrypted=true", `"encrypted" (-o)`},
		{"-o com.docker.network.bridge.gateway_mode_ipv4=isolated", `"com.docker.network.bridge.gateway_mode_ipv4" (-o)`},
		{"--ipv6 --subnet fd00:77::/64", "networks are IPv4"},
	}
	if dockerMajor(t, 1) >= 28 {
		refusals = append(refusals, refusal{"--ipv4=false --ipv6 --subnet fd00:77::/64", "networks are IPv4"})
	}
	for _, r := range refusals {
		argv := append([]string{"docker", "network", "create", "-d", "socketplane", "--ipam-driver", "socketplane"}, strings.Fields(r.flags)...)
		if got := try(t, 1, append(argv, "refused")...); got.code != 1 || !strings.Contains(got.stderr, r.said) {
			t.Errorf("%s: status %d, %s%s, want %s", r.flags, got.code, got.stdout, got.stderr, r.said)
			try(t, 1, "docker", "network", "rm", "refused")
		}
	}
	dockerHas(t, 1, "refused", false)
	leavesNothing(t, 1, before)
}

// answers says whether a port of h1 answers another host.
func answers(t testing.TB, port string) error {
	t.Helper()
	if r := try(t, 2, "curl", "-s", "-o", "/dev/null", "--max-time", "2", "http://198.18.0.1:"+port); r.code != 0 {
		return fmt.Errorf("port %s: curl ends with status %d", port, r.code)
	}
	return nil
}

// Promise: a container's ports answer, whichever of its networks Docker takes for
// that of its gateway. (Docker 28 publishes and revokes as that changes.)
func TestPublishedFollowTheGateway(t *testing.T) {
	makeNetwork(t, 1, "gwa", "10.187.0.0/24")
	makeNetwork(t, 1, "gwb", "10.188.0.0/24")
	dockerHas(t, 1, "gwa", true)
	dockerHas(t, 1, "gwb", true)
	before := traces(t, 1)
	must(t, 1, "docker", "run", "-d", "--init", "--net", "gwa", "--name", "gw-c", "-p", "18480:80", "-p", "18490-18495:80", lab.Image, "httpd", "-f", "-p", "80")
	t.Cleanup(func() { try(t, 1, "docker", "rm", "-f", "gw-c") })
	both := func(when string) {
		t.Helper()
		for _, port := range []string{"18480", "18490"} {
			eventually(t, when, func() error { return answers(t, port) })
		}
	}
	both("at first")
	connect := []string{"docker", "network", "connect", "gwb", "gw-c"}
	if dockerMajor(t, 1) >= 28 {
		connect = []string{"docker", "network", "connect", "--gw-priority", "100", "gwb", "gw-c"}
	}
	for range 2 {
		must(t, 1, connect...)
		both("on two networks")
		must(t, 1, "docker", "network", "disconnect", "gwb", "gw-c")
		both("on the first again")
	}
	removeByDocker(t, 1, "gw-c")
	leavesNothing(t, 1, before)
}

// Promise: a dockerd that finds its containers running (live-restore) tells the driver
// nothing of their ports; they answer on, and end with the container.
func TestPublishedOutliveDocker(t *testing.T) {
	makeNetwork(t, 1, "lrs", "10.189.0.0/24")
	dockerHas(t, 1, "lrs", true)
	before := traces(t, 1)
	set := func(how string) {
		must(t, 1, "sh", "-c", `f=/etc/docker/daemon.json; text=$(jq '`+how+`' $f) && printf '%s\n' "$text" >$f`)
	}
	set(`."live-restore" = true`)
	service(t, 1, "restart", "dockerd")
	t.Cleanup(func() {
		set(`del(."live-restore")`)
		service(t, 1, "restart", "dockerd")
	})
	must(t, 1, "docker", "run", "-d", "--init", "--net", "lrs", "--name", "lrs-c", "-p", "18580:80", lab.Image, "httpd", "-f", "-p", "80")
	t.Cleanup(func() { try(t, 1, "docker", "rm", "-f", "lrs-c") })
	eventually(t, "before", func() error { return answers(t, "18580") })
	pid := must(t, 1, "docker", "inspect", "-f", "{{.State.Pid}}", "lrs-c")
	service(t, 1, "stop", "dockerd")
	if err := answers(t, "18580"); err != nil {
		t.Errorf("without dockerd: %v", err)
	}
	service(t, 1, "start", "dockerd")
	if now := must(t, 1, "docker", "inspect", "-f", "{{.State.Pid}}", "lrs-c"); now != pid {
		t.Fatalf("the container did not live on: process %s, was %s", now, pid)
	}
	eventually(t, "after", func() error { return answers(t, "18580") })
	must(t, 1, "docker", "stop", "-t", "1", "lrs-c")
	// Free for a program of the host, and for another container.
	must(t, 1, "docker", "run", "--rm", "--net", "lrs", "-p", "18580:80", lab.Image, "true")
	must(t, 1, "docker", "start", "lrs-c")
	eventually(t, "started again", func() error { return answers(t, "18580") })
	removeByDocker(t, 1, "lrs-c")
	leavesNothing(t, 1, before)
}
