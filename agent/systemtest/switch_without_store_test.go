package systemtest

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// storelessRounds is how often the switch is restarted, with the store and without.
const storelessRounds = 3

// Promise: ovs-vswitchd killed and started while all servers of Consul hang: it
// forwards again as soon as it does with a Consul that answers. Both are measured
// here, one after the other, since a busy machine makes both slow.
func TestSwitchRestartWithoutStore(t *testing.T) {
	makeNetwork(t, 1, "storeless", "10.153.0.0/24")
	a, b := runContainer(t, 1, "storeless", "sl-a"), runContainer(t, 2, "storeless", "sl-b")
	c := runContainer(t, 1, "storeless", "sl-c")
	var ends []container // one for each round without the store
	for round := range storelessRounds {
		ends = append(ends, runContainer(t, 1, "storeless", fmt.Sprintf("sl-end%d", round)))
	}
	for _, ip := range []string{b.ip, c.ip} {
		eventually(t, "reach "+ip, func() error { return a.pings(t, ip) })
	}
	restart := func(what string) time.Duration {
		t.Helper()
		probes := []*prober{
			startProbe(t, "to the other host", a.namespace(t), b.ip),
			startProbe(t, "on the host", a.namespace(t), c.ip),
		}
		probes[0].awaitSent(t, 10)
		service(t, 1, "kill", "ovs-vswitchd")
		start := time.Now()
		service(t, 1, "start", "ovs-vswitchd")
		var back time.Duration
		for _, p := range probes {
			eventually(t, p.name+" answers", func() error {
				if p.answeredAfter(start).IsZero() {
					return fmt.Errorf("no answer")
				}
				return nil
			})
			back = max(back, p.answeredAfter(start).Sub(start))
			p.finish(0)
		}
		t.Logf("%s: back %s after the start of the switch", what, back.Round(time.Millisecond))
		return back
	}
	var with, without []time.Duration
	for range storelessRounds {
		with = append(with, restart("Consul answers"))
	}
	for k := range 3 {
		pid := strings.TrimSpace(must(t, k+1, "cat", "/run/lab/consul.pid"))
		must(t, k+1, "kill", "-STOP", pid)
		t.Cleanup(func() { must(t, k+1, "kill", "-CONT", pid) })
	}
	for round := range storelessRounds {
		// A container that ends has to be published: the agent waits for the store.
		must(t, 1, "docker", "kill", ends[round].name)
		without = append(without, restart("Consul hangs"))
	}
	if r := try(t, 1, "timeout", "2", "consul", "kv", "get", "-recurse", "socketplane/v1/networks/"); r.code == 0 {
		t.Fatal("Consul answers: the test shows nothing")
	}
	// The median: one round may meet a machine that stands still.
	slices.Sort(with)
	slices.Sort(without)
	if alive, hung := with[storelessRounds/2], without[storelessRounds/2]; hung > 2*alive+time.Second {
		t.Errorf("the switch forwards %s after its start while the store hangs, and %s while it answers", hung, alive)
	}
}
