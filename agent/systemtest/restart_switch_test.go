package systemtest

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/socketplane/socketplane/agent/systemtest/lab"
)

// backWithin is how long after its start a switch may take to forward again.
const backWithin = 3 * time.Second

// Promise: ovs-vswitchd killed and started: forwarding is back within 3 s with
// nobody's help, across hosts, on the host and out to the world.
func TestSwitchRestart(t *testing.T) {
	makeNetwork(t, 1, "vswitchd", "10.148.0.0/24")
	a, b := runContainer(t, 1, "vswitchd", "vs-a"), runContainer(t, 2, "vswitchd", "vs-b")
	c := runContainer(t, 1, "vswitchd", "vs-c")
	for _, ip := range []string{b.ip, c.ip, "203.0.113.1"} {
		eventually(t, "reach "+ip, func() error { return a.pings(t, ip) })
	}
	before := footprint(t, 1)
	probes := []*prober{
		startProbe(t, "h1 to h2", a.namespace(t), b.ip),
		startProbe(t, "h2 to h1", b.namespace(t), a.ip),
		startProbe(t, "on h1", a.namespace(t), c.ip),
		startProbe(t, "h1 to the outside", a.namespace(t), "203.0.113.1"),
		startProbe(t, "h1 to its gateway", a.namespace(t), "10.148.0.1"),
	}
	probes[0].awaitSent(t, 20)
	service(t, 1, "kill", "ovs-vswitchd")
	dead := time.Now()
	probes[0].awaitSent(t, 30)
	if _, answered := probes[0].counts(); answered == 0 {
		t.Fatal("no ping was answered before")
	}
	for _, p := range probes {
		if at := p.answeredAfter(dead.Add(50 * time.Millisecond)); !at.IsZero() {
			t.Errorf("%s: answered while the switch is dead: the test shows nothing", p.name)
		}
	}
	start := time.Now()
	service(t, 1, "start", "ovs-vswitchd")
	for _, p := range probes {
		eventually(t, p.name+" answers", func() error {
			if p.answeredAfter(start).IsZero() {
				return fmt.Errorf("no answer")
			}
			return nil
		})
		took := p.answeredAfter(start).Sub(start)
		t.Logf("%s: back %s after the start", p.name, took.Round(time.Millisecond))
		if took > backWithin {
			t.Errorf("%s: back after %s, later than %s", p.name, took, backWithin)
		}
	}
	eventually(t, "all is as before", func() error { return differs(before, footprint(t, 1)) })
	// Once back, it stays, but for a packet where the switch learns its routes anew.
	calm := startProbe(t, "afterwards", a.namespace(t), b.ip)
	calm.awaitSent(t, 300)
	lostLittle(t, calm)
	eventually(t, "full-size ping", func() error { return a.pings(t, b.ip, "-s", "1422") })
}

// sentence checks a command's failure: an exit code, and one line that explains.
func sentence(t testing.TB, what string, r result, code int) {
	t.Helper()
	line := strings.TrimSpace(r.stderr)
	if r.code != code || line == "" || strings.Contains(line, "\n") {
		t.Errorf("%s: exit status %d, want %d with one line; stderr:\n%s%s", what, r.code, code, r.stderr, r.stdout)
	}
	t.Logf("%s: %s", what, line)
}

// Promise: ovsdb-server killed, and started after networks and containers have
// changed as far as they could: resynchronised, and nothing stale is left.
func TestDatabaseRestart(t *testing.T) {
	cleanly := [2][]string{footprint(t, 1), footprint(t, 2)}
	makeNetwork(t, 1, "ovsdb", "10.149.0.0/24")
	a, b := runContainer(t, 1, "ovsdb", "db-a"), runContainer(t, 2, "ovsdb", "db-b")
	goes, stops := runContainer(t, 1, "ovsdb", "db-goes"), runContainer(t, 1, "ovsdb", "db-stops")
	restarts := runContainer(t, 1, "ovsdb", "db-restarts")
	farGoes := runContainer(t, 2, "ovsdb", "db-far-goes")
	eventually(t, "reach each other", func() error { return a.pings(t, b.ip) })
	down := time.Now()
	service(t, 1, "kill", "ovsdb-server")

	// Each waits some seconds for the database: side by side.
	var g sync.WaitGroup
	var create, remove, run, stop, again, connect result
	ns := namespace(t, 1, "db-ns")
	for r, argv := range map[*result][]string{
		&create:  {"socketplane", "network", "create", "ovsdb3", "10.150.1.0/24"},
		&remove:  {"docker", "rm", "-f", goes.name},
		&run:     {"socketplane", "run", "-n", "ovsdb", "--name", "db-new", "-d", lab.Image, "sleep", "1000"},
		&stop:    {"docker", "stop", "-t", "0", stops.name},
		&again:   {"docker", "restart", "-t", "0", restarts.name},
		&connect: {"socketplane", "connect", "-n", "ovsdb", "--netns", ns, "--id", "db-ns"},
	} {
		g.Go(func() { *r = try(t, 1, argv...) })
	}
	makeNetwork(t, 2, "ovsdb2", "10.150.0.0/24")
	sp(t, 2, "rm", "-f", farGoes.name)
	farNew := runContainer(t, 2, "ovsdb", "db-far-new")
	g.Wait()
	t.Cleanup(func() {
		try(t, 1, "docker", "rm", "-f", "db-new")
		try(t, 1, "socketplane", "disconnect", "db-ns")
		try(t, 1, "socketplane", "network", "delete", "ovsdb3")
	})
	t.Logf("without a database: create %d, rm %d, run %d, stop %d, restart %d, connect %d, after %s",
		create.code, remove.code, run.code, stop.code, again.code, connect.code, time.Since(down).Round(time.Millisecond))
	// The way to the store is the userspace switch's too, which waits for its
	// database; with a kernel datapath this works.
	if create.code != 0 {
		sentence(t, "network create", create, 1)
	}
	for what, r := range map[string]result{"rm": remove, "stop": stop} {
		if r.code != 0 {
			t.Errorf("docker %s fails: %s", what, r.stderr)
		}
	}
	sentence(t, "run", run, 125)
	sentence(t, "connect", connect, 1)
	if again.code == 0 {
		t.Error("docker restart started a container without its network")
	} else {
		t.Logf("docker restart: %s", strings.TrimSpace(again.stderr))
	}
	if status := try(t, 1, "socketplane", "agent", "status"); !strings.Contains(status.stdout, "Open vSwitch") {
		t.Errorf("agent status does not tell:\n%s%s", status.stdout, status.stderr)
	}

	start := time.Now()
	service(t, 1, "start", "ovsdb-server")
	eventuallyIn(t, time.Minute, "reach across hosts", func() error { return a.pings(t, b.ip) })
	t.Logf("forwarding %s after the start", time.Since(start).Round(time.Millisecond))
	eventuallyIn(t, time.Minute, "reach the one that came meanwhile", func() error { return a.pings(t, farNew.ip) })
	eventuallyIn(t, time.Minute, "and it reaches us", func() error { return farNew.pings(t, a.ip) })
	awaitAgent(t, 1)
	eventuallyIn(t, time.Minute, "the removed one goes", func() error {
		if r := try(t, 1, "socketplane", "info", goes.name); r.code != 1 {
			return fmt.Errorf("status %d: %s", r.code, r.stdout)
		}
		return nil
	})
	t.Logf("resynchronised %s after the start", time.Since(start).Round(time.Millisecond))
	for _, c := range []container{stops, restarts} {
		must(t, 1, "docker", "start", c.name)
		if e := info(t, 1, c.name); e.IP != c.ip {
			t.Errorf("%s has address %s, had %s", c.name, e.IP, c.ip)
		}
		eventually(t, "reach "+c.name+" again", func() error { return b.pings(t, c.ip) })
	}
	n1, n2 := runContainer(t, 1, "ovsdb2", "db-n1"), runContainer(t, 2, "ovsdb2", "db-n2")
	eventually(t, "the new network works", func() error { return n1.pings(t, n2.ip) })

	for _, c := range []container{a, b, stops, restarts, farNew, n1, n2} {
		sp(t, c.host, "rm", "-f", c.name)
	}
	try(t, 1, "docker", "rm", "-f", "db-new")
	for k := 1; k <= 2; k++ {
		eventually(t, fmt.Sprintf("nothing is left on h%d", k), func() error {
			return differs(cleanly[k-1], footprint(t, k), "networks/ovsdb", "vlans/", "network-generation")
		})
	}
}
