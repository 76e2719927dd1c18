package systemtest

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/systemtest/lab"
)

// stormLimit bounds each of the hundred commands that are under way at once. They
// share two cores: where one docker run takes 0.9 s, the hundredth is done after
// 100 s.
const stormLimit = 6 * time.Minute

// Promise: a hundred containers that Docker starts at once on three hosts, through
// its own network and through `socketplane run` in turn: none fails, each has an
// address of its own, and when all are removed at once nothing is left. The
// hundred clients that ask for it are nice: they are no part of the hosts.
func TestDockerStorm(t *testing.T) {
	const hosts, containers = 3, 100
	makeNetwork(t, 1, "dstorm", "10.186.0.0/22")
	c := clients(t)
	var before [hosts + 1][]string
	for k := 1; k <= hosts; k++ {
		niceDocker(t, k)
		dockerHas(t, k, "dstorm", true)
		before[k] = traces(t, k)
	}
	name := func(i int) string { return fmt.Sprintf("dstorm-%d", i) }
	host := func(i int) int { return 1 + i%hosts }
	t.Cleanup(func() { // whatever happened below
		together(t, containers, func(i int) error { tryWithin(t, stormLimit, host(i), "", "docker", "rm", "-f", name(i)); return nil })
	})
	together(t, containers, func(i int) error {
		argv := []string{"nice", "-n", "19", "socketplane", "run", "-n", "dstorm"}
		if (i/hosts)%2 == 0 {
			argv = []string{"nice", "-n", "19", "docker", "run", "--net", "dstorm"}
		}
		r := tryWithin(t, stormLimit, host(i), "", append(argv, "-d", "--name", name(i), lab.Image, "sleep", "100000")...)
		if r.code != 0 {
			return fmt.Errorf("%s: exit status %d: %s", argv[3], r.code, r.stderr)
		}
		return nil
	})

	for k := 1; k <= hosts && t.Failed(); k++ { // a call that came late says later why
		t.Logf("h%d: %s", k, try(t, k, "grep", "-e", "level=WARN", "-e", "level=ERROR", "/var/log/socketplane.log").stdout)
	}
	owner := map[netip.Addr]string{}
	for k := 1; k <= hosts; k++ {
		endpoints, err := c[k].Endpoints(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range endpoints {
			if e.Network != "dstorm" {
				continue
			}
			if !e.Attached {
				t.Errorf("%s %s is not attached", e.ContainerName, e.ID)
			}
			if other, twice := owner[e.IP]; twice {
				t.Errorf("%s is %s's and %s's", e.IP, e.ID, other)
			}
			owner[e.IP] = e.ID
		}
	}
	if got := held(t, "10.186.0.0/22"); len(owner) != containers || len(got) != containers {
		t.Errorf("%d endpoints are there and %d addresses taken, want %d", len(owner), len(got), containers)
	}
	var ips []string
	for ip := range owner {
		ips = append(ips, ip.String())
	}
	namespaces(t, 2, "dstorm-probe")
	if _, err := c[2].Attach(t.Context(), api.AttachRequest{ID: "dstorm-probe", Network: "dstorm", NetNS: "/run/netns/dstorm-probe", Source: api.SourceConnect}); err != nil {
		t.Fatal(err)
	}
	eventuallyIn(t, stormLimit, "all answer the probe", func() error {
		if ips = unanswered(t, 2, "dstorm-probe", ips); len(ips) > 0 {
			return fmt.Errorf("%d do not: %v", len(ips), ips)
		}
		return nil
	})
	if err := c[2].Release(t.Context(), "dstorm-probe"); err != nil {
		t.Fatal(err)
	}

	together(t, containers, func(i int) error {
		if r := tryWithin(t, stormLimit, host(i), "", "nice", "-n", "19", "docker", "rm", "-f", name(i)); r.code != 0 {
			return fmt.Errorf("remove: %s", strings.TrimSpace(r.stderr))
		}
		return nil
	})
	for k := 1; k <= hosts; k++ {
		leavesNothing(t, k, before[k])
	}
}

// niceDocker makes what host k's Docker does in a test nice. All hosts share one
// kernel, whose RCU callbacks run in threads as important as any other: among the
// hundred of a storm these wait for seconds, and with them whoever moves an
// interface to another namespace, which Docker does, and everybody who waits for
// the kernel's one lock of all interfaces. On a machine of its own a host has them
// to itself.
func niceDocker(t testing.TB, k int) {
	t.Helper()
	renice := func(n string) {
		for _, name := range []string{"dockerd", "containerd"} {
			for _, pid := range strings.Fields(must(t, k, "pgrep", "-x", name)) {
				// Its group, since a process alone would be its first thread. A child that
				// has not become its program yet has none.
				try(t, k, "renice", "-n", n, "-g", pid)
			}
		}
		pid := strings.TrimSpace(must(t, k, "cat", "/run/docker.pid"))
		if is := strings.TrimSpace(must(t, k, "ps", "-o", "ni=", "-p", pid)); is != n {
			t.Fatalf("h%d: dockerd's niceness is %s, not %s", k, is, n)
		}
	}
	renice("19")
	t.Cleanup(func() { renice("0") })
}
