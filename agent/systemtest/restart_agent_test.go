package systemtest

import (
	"context"
	"fmt"
	"strings"
	"testing"
)

// awaitAgent waits until host k's agent is ready and has all its tunnels.
func awaitAgent(t testing.TB, k int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	if err := cluster.Host(k).AwaitAgent(ctx, len(cluster.Hosts())-1); err != nil {
		t.Fatal(err)
	}
}

// restartAgent restarts host k's agent, with more in its environment, and waits
// until it is ready: a container that is started before that is refused.
func restartAgent(t testing.TB, k int, env ...string) {
	t.Helper()
	must(t, k, append(append([]string{"env"}, env...), "socketplane", "agent", "restart")...)
	awaitAgent(t, k)
	healthy(t, k)
}

// killAgent kills host k's agent as the kernel's out-of-memory killer would.
func killAgent(t testing.TB, k int) {
	t.Helper()
	pid := strings.TrimSpace(must(t, k, "cat", "/run/socketplane/agent.pid"))
	must(t, k, "kill", "-9", pid)
	t.Cleanup(func() { try(t, k, "socketplane", "agent", "start") }) // if the test has failed to
	eventually(t, "the agent dies", func() error {
		if r := try(t, k, "socketplane", "agent", "status"); r.code != 3 {
			return fmt.Errorf("status %d: %s", r.code, r.stdout+r.stderr)
		}
		return nil
	})
}

// Promise: an agent that is killed, restarted, or both at once, costs not one of
// the pings that pass between its container and another host's, and out to the
// world; afterwards info, the switch and the store show everything as before.
func TestAgentRestartLosesNothing(t *testing.T) {
	makeNetwork(t, 1, "again", "10.146.0.0/24")
	a, b := runContainer(t, 1, "again", "ag-a"), runContainer(t, 2, "again", "ag-b")
	beside := runContainer(t, 1, "again", "ag-c")
	stopped := runContainer(t, 1, "again", "ag-stopped")
	sp(t, 1, "stop", "-t", "0", stopped.name)
	ns := namespace(t, 1, "ag-ns")
	sp(t, 1, "connect", "-n", "again", "--netns", ns, "--id", "ag-ns")
	t.Cleanup(func() { try(t, 1, "socketplane", "disconnect", "ag-ns") })
	for _, ip := range []string{b.ip, beside.ip, "203.0.113.1"} {
		eventually(t, "reach "+ip, func() error { return a.pings(t, ip) })
	}
	eventually(t, "h2 knows what is on h1", func() error {
		flows := must(t, 2, "ovs-ofctl", "-O", "OpenFlow13", "dump-flows", "docker0-ovs")
		for ip, want := range map[string]bool{beside.ip: true, info(t, 1, "ag-ns").IP: true, stopped.ip: false} {
			if strings.Contains(flows, "arp_tpa="+ip+",") != want {
				return fmt.Errorf("a flow for %s: %v", ip, !want)
			}
		}
		return nil
	})
	shown := func() string { return sp(t, 1, "info", "-o", "json") + sp(t, 2, "info", "-o", "json") }
	print := func() []string { return append(footprint(t, 1), footprint(t, 2)...) }
	shows, before := shown(), print()

	cases := []struct {
		name string
		f    func(t *testing.T)
	}{
		{"killed", func(t *testing.T) {
			killAgent(t, 1)
			sp(t, 1, "agent", "start")
		}},
		{"restarted", func(t *testing.T) { sp(t, 1, "agent", "restart") }},
		{"both killed", func(t *testing.T) {
			killAgent(t, 1)
			killAgent(t, 2)
			sp(t, 1, "agent", "start")
			sp(t, 2, "agent", "start")
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			probes := []*prober{
				startProbe(t, "h1 to h2", a.namespace(t), b.ip),
				startProbe(t, "h2 to h1", b.namespace(t), a.ip),
				startProbe(t, "on h1", a.namespace(t), beside.ip),
				startProbe(t, "h1 to the outside", a.namespace(t), "203.0.113.1"),
			}
			probes[0].awaitSent(t, 20)
			c.f(t)
			for k := 1; k <= 2; k++ {
				awaitAgent(t, k)
			}
			// Half a second more: what a started agent does late counts as well.
			probes[0].awaitSent(t, 50)
			eventually(t, "enough pings", func() error {
				if sent, _ := probes[0].counts(); sent < 300 {
					return fmt.Errorf("%d", sent)
				}
				return nil
			})
			lostNothing(t, 250, probes...)
			if now := shown(); now != shows {
				t.Errorf("info shows\n%s\nbefore it was\n%s", now, shows)
			}
			eventually(t, "all is as before", func() error { return differs(before, print()) })
		})
	}
	t.Run("works on", func(t *testing.T) {
		sp(t, 1, "start", stopped.name)
		eventually(t, "reach it", func() error { return b.pings(t, stopped.ip) })
		sp(t, 1, "disconnect", "ag-ns")
	})
}

// Promise: what became of containers while the agent was dead is made up for.
func TestAgentCatchesUp(t *testing.T) {
	makeNetwork(t, 1, "catchup", "10.147.0.0/24")
	stays := runContainer(t, 1, "catchup", "cu-stays")
	far := runContainer(t, 2, "catchup", "cu-far")
	eventually(t, "both hosts know both", func() error { return stays.pings(t, far.ip) })
	before := [2][]string{footprint(t, 1), footprint(t, 2)}
	goes, ends := runContainer(t, 1, "catchup", "cu-goes"), runContainer(t, 1, "catchup", "cu-ends")
	farGoes := runContainer(t, 2, "catchup", "cu-far-goes")

	killAgent(t, 1)
	must(t, 1, "docker", "kill", ends.name)
	must(t, 1, "docker", "rm", "-f", goes.name)
	sp(t, 2, "rm", "-f", farGoes.name)
	farNew := runContainer(t, 2, "catchup", "cu-far-new")
	sp(t, 1, "agent", "start")
	awaitAgent(t, 1)

	eventually(t, "reach the one that came meanwhile", func() error { return stays.pings(t, farNew.ip) })
	eventually(t, "the removed one goes", func() error {
		if r := try(t, 1, "socketplane", "info", goes.name); r.code != 1 {
			return fmt.Errorf("status %d: %s", r.code, r.stdout)
		}
		return nil
	})
	eventually(t, "the ended one is detached and keeps its address", func() error {
		if e := info(t, 1, ends.name); e.Port != "" || e.IP != ends.ip {
			return fmt.Errorf("port %q, address %s", e.Port, e.IP)
		}
		return nil
	})
	remove(t, 1, ends.name)
	remove(t, 2, farNew.name)
	eventually(t, "nothing is left on h1", func() error { return differs(before[0], footprint(t, 1)) })
	eventually(t, "nothing is left on h2", func() error { return differs(before[1], footprint(t, 2)) })
	if err := stays.pings(t, far.ip, patiently...); err != nil {
		t.Error(err)
	}
}
