package systemtest

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/systemtest/lab"
)

// together does something n times at once and reports what fails.
func together(t testing.TB, n int, f func(i int) error) {
	t.Helper()
	var wg sync.WaitGroup
	errs := make([]error, n)
	for i := range n {
		wg.Go(func() { errs[i] = f(i) })
	}
	wg.Wait()
	for i, err := range errs {
		if err != nil {
			t.Errorf("number %d: %v", i, err)
		}
	}
}

// namespaces makes network namespaces on host k, all in one command, and takes
// them away at the end.
func namespaces(t testing.TB, k int, names ...string) {
	t.Helper()
	lines := func(verb string) string {
		return "netns " + verb + " " + strings.Join(names, "\nnetns "+verb+" ") + "\n"
	}
	if r := tryInput(t, k, lines("add"), "ip", "-batch", "-"); r.code != 0 {
		t.Fatalf("h%d: make namespaces: %s", k, r.stderr)
	}
	t.Cleanup(func() { tryInput(t, k, lines("del"), "ip", "-force", "-batch", "-") })
}

// unanswered pings addresses from a namespace of host k and gives those that are silent.
func unanswered(t testing.TB, k int, ns string, ips []string) []string {
	t.Helper()
	const script = `for ip; do ping -c 1 -W 1 "$ip" >/dev/null 2>&1 || echo "$ip"; done`
	return strings.Fields(must(t, k, append([]string{"ip", "netns", "exec", ns, "sh", "-c", script, "sh"}, ips...)...))
}

// Promise: thirty containers and sixty namespaces that join a network at once, on
// three hosts: none fails, each has an address of its own and answers another
// host, and when all have gone at once nothing is left.
func TestStorm(t *testing.T) {
	const containers, connects, hosts = 30, 60, 3
	makeNetwork(t, 1, "storm", "10.87.0.0/22")
	c := clients(t)
	var before [hosts + 1][]string
	for k := 1; k <= hosts; k++ {
		before[k] = traces(t, k)
	}
	namespaces(t, 2, "storm-probe")
	id := func(i int) string { return fmt.Sprintf("storm-%d", i) }
	for k := range hosts {
		var names []string
		for i := k; i < connects; i += hosts {
			names = append(names, id(i))
		}
		namespaces(t, 1+k, names...)
	}
	t.Cleanup(func() { // whatever happened below
		together(t, containers, func(i int) error { try(t, 1+i%hosts, "docker", "rm", "-f", "storm-c"+id(i)); return nil })
		for i := range connects {
			_ = c[1+i%hosts].Release(t.Context(), id(i))
		}
	})

	probe, err := c[2].Attach(t.Context(), api.AttachRequest{ID: "storm-probe", Network: "storm", NetNS: "/run/netns/storm-probe", Source: api.SourceConnect})
	if err != nil {
		t.Fatal(err)
	}
	together(t, containers+connects, func(i int) error {
		if i < containers {
			r := try(t, 1+i%hosts, "socketplane", "run", "-d", "--init", "-n", "storm", "--name", "storm-c"+id(i), lab.Image, "sleep", "100000")
			if r.code != 0 {
				return fmt.Errorf("run: exit status %d: %s", r.code, r.stderr)
			}
			return nil
		}
		i -= containers
		_, err := c[1+i%hosts].Attach(t.Context(), api.AttachRequest{ID: id(i), Network: "storm", NetNS: "/run/netns/" + id(i), Source: api.SourceConnect})
		return err
	})

	owner := map[netip.Addr]string{probe.IP: "the probe"}
	var ips []string
	for k := 1; k <= hosts; k++ {
		endpoints, err := c[k].Endpoints(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range endpoints {
			if e.Network != "storm" || e.ID == "storm-probe" {
				continue
			}
			if other, twice := owner[e.IP]; twice {
				t.Errorf("%s is %s's and %s's", e.IP, e.ID, other)
			}
			owner[e.IP] = e.ID
			ips = append(ips, e.IP.String())
		}
	}
	if len(ips) != containers+connects {
		t.Errorf("%d endpoints are there, want %d", len(ips), containers+connects)
	}
	if got := held(t, "10.87.0.0/22"); len(got) != len(owner) {
		t.Errorf("the store has %d addresses taken, want %d", len(got), len(owner))
	}
	silent := ips
	eventually(t, "all answer the probe", func() error {
		if silent = unanswered(t, 2, "storm-probe", silent); len(silent) > 0 {
			return fmt.Errorf("%d do not: %v", len(silent), silent)
		}
		return nil
	})

	together(t, containers+connects+1, func(i int) error {
		switch {
		case i < containers:
			r := try(t, 1+i%hosts, "socketplane", "rm", "-f", "storm-c"+id(i))
			if r.code != 0 {
				return errors.New(r.stderr)
			}
			return nil
		case i == containers+connects:
			return c[2].Release(t.Context(), "storm-probe")
		}
		i -= containers
		return c[1+i%hosts].Release(t.Context(), id(i))
	})
	for k := 1; k <= hosts; k++ {
		leavesNothing(t, k, before[k])
	}
}
