package systemtest

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/systemtest/lab"
)

// hurry makes the agents of hosts ks take a dead host for dead after some
// seconds, until the test ends.
func hurry(t testing.TB, drain, reclaim time.Duration, ks ...int) {
	t.Helper()
	const path = "/etc/socketplane/socketplane.toml"
	for _, k := range ks {
		before := must(t, k, "cat", path)
		write := func(text string) {
			if r := tryInput(t, k, text, "tee", path); r.code != 0 {
				t.Fatalf("h%d: %s", k, r.stderr)
			}
			sp(t, k, "agent", "restart")
		}
		write(strings.Replace(before, "[cluster]\n", fmt.Sprintf("[cluster]\ndrain_after = %q\nreclaim_after = %q\n", drain, reclaim), 1))
		t.Cleanup(func() {
			write(before)
			awaitAgent(t, k)
		})
	}
	for _, k := range ks {
		awaitAgent(t, k)
	}
}

// peerState is what host k says of a peer, and "" when it knows none of that name.
func peerState(t testing.TB, k int, name string) string {
	t.Helper()
	st, err := agentOn(t, k).Status(within(t))
	if err != nil {
		return err.Error()
	}
	for _, p := range st.Peers {
		if p.Name == name {
			return p.State
		}
	}
	return ""
}

// memberState is the same from `cluster members`.
func memberState(t testing.TB, k int, name string) string {
	t.Helper()
	all, err := agentOn(t, k).Members(within(t))
	if err != nil {
		return err.Error()
	}
	for _, m := range all {
		if m.Name == name {
			return m.State
		}
	}
	return ""
}

// lostItsAddress waits until host k says that a container's address is another's.
func lostItsAddress(t testing.TB, k int, c container) {
	t.Helper()
	eventuallyIn(t, 2*time.Minute, "it is said which container lost its address", func() error {
		st, err := agentOn(t, k).Status(within(t))
		if err == nil && !strings.Contains(strings.Join(st.Problems, "\n"), c.ip+` of "`+c.name+`" was given to another`) {
			err = fmt.Errorf("it says %q", st.Problems)
		}
		return err
	})
}

// Promise: a host that loses its power is suspected first, then drained: no
// tunnel leads to it. Later its addresses are anybody's. A dead agent alone is
// suspected, and costs its containers nothing, however long it is away. A host
// that returns after its addresses were given up is a host as any other, no
// address has two owners, and what it had says so.
func TestDeadHost(t *testing.T) {
	const network, subnet = "dead", "10.154.0.0/24"
	const drain, reclaim = time.Second, 8 * time.Second
	makeNetwork(t, 1, network, subnet)
	near, there := runContainer(t, 1, network, "de-near"), runContainer(t, 3, network, "de-there")
	beside := runContainer(t, 2, network, "de-beside")
	eventually(t, "all is well", func() error { return invariants(t, network, subnet, 1, 2, 3) })
	for _, c := range []container{there, beside} {
		eventually(t, "reach "+c.name, func() error { return near.pings(t, c.ip) })
	}

	// An agent that dies. Its machine lives, and so does its data path.
	killAgent(t, 3)
	hurry(t, drain, reclaim, 1, 2)
	eventuallyIn(t, time.Minute, "h3 is suspect", func() error {
		if s, m := peerState(t, 1, "h3"), memberState(t, 1, "h3"); s != api.StateSuspect || m != api.StateSuspect {
			return fmt.Errorf("it is %q as a peer and %q as a member", s, m)
		}
		return nil
	})
	// Two looks later it would be drained, were it taken for dead.
	past := time.Now().Add(drain + 6*time.Second)
	for time.Now().Before(past) {
		if err := near.pings(t, there.ip, patiently...); err != nil {
			t.Fatalf("the agent is away, and its container is cut off: %v", err)
		}
		if s := peerState(t, 1, "h3"); s != "suspect" {
			t.Fatalf("h3, whose agent is away, is %q", s)
		}
	}

	start := time.Now()
	powerCut(t, 3)
	for _, k := range []int{1, 2} {
		eventuallyIn(t, time.Minute, "h3 is gone", func() error {
			if s, m := peerState(t, k, "h3"), memberState(t, k, "h3"); s != api.StateGone || m != api.StateGone {
				return fmt.Errorf("h%d says it is %q as a peer and %q as a member", k, s, m)
			}
			return nil
		})
		t.Logf("h%d has drained it after %s", k, time.Since(start).Round(time.Millisecond))
	}
	if err := near.pings(t, beside.ip, patiently...); err != nil {
		t.Errorf("the others are hurt: %v", err)
	}
	// Longer where h3 led the Consul servers: an election, and sessions counted anew.
	eventuallyIn(t, 2*time.Minute, "what it had is given up", func() error { return invariants(t, network, subnet, 1, 2) })
	t.Logf("given up after %s", time.Since(start).Round(time.Millisecond))

	heir := runContainer(t, 2, network, "de-heir", "--ip", there.ip)
	eventually(t, "the new owner is reached", func() error { return near.pings(t, heir.ip) })

	powerOn(t, 3, bootOrder)
	awaitAgent(t, 3)
	lostItsAddress(t, 3, there)
	if r := try(t, 3, "socketplane", "start", there.name); r.code == 0 || !strings.Contains(r.stderr, "create it anew") {
		t.Errorf("a container whose address was given up: exit status %d: %s", r.code, r.stderr)
	}
	remove(t, 3, there.name)
	eventually(t, "h3 is a host as any other", func() error { return invariants(t, network, subnet, 1, 2, 3) })
	fresh := runContainer(t, 3, network, there.name)
	eventually(t, "a new one is reached", func() error { return near.pings(t, fresh.ip) })
	if err := near.pings(t, heir.ip, patiently...); err != nil {
		t.Errorf("the new owner: %v", err)
	}
	eventually(t, "all is well", func() error { return invariants(t, network, subnet, 1, 2, 3) })
}

// Promise: a host that was cut off for so long that its addresses were given up,
// and whose containers ran on, finds those that are still free its own again; one
// whose address is another's now is taken off the network, and says why.
func TestCutOffHostReturns(t *testing.T) {
	const network, subnet = "cutoff", "10.155.0.0/24"
	makeNetwork(t, 1, network, subnet)
	near := runContainer(t, 1, network, "cu-near")
	keeps, loses := runContainer(t, 3, network, "cu-keeps"), runContainer(t, 3, network, "cu-loses")
	hurry(t, time.Second, 2*time.Second, 1, 2)
	eventually(t, "all is well", func() error { return invariants(t, network, subnet, 1, 2, 3) })
	wires := func(state string) {
		for _, wire := range []string{"ul0", lab.ControlLink} {
			must(t, 3, "ip", "link", "set", wire, state)
		}
	}
	wires("down")
	t.Cleanup(func() { wires("up") })
	// Longer where h3 led the Consul servers: an election, and sessions counted anew.
	eventuallyIn(t, 2*time.Minute, "what it had is given up", func() error { return invariants(t, network, subnet, 1, 2) })
	heir := runContainer(t, 2, network, "cu-heir", "--ip", loses.ip)
	wires("up")

	lostItsAddress(t, 3, loses)
	eventually(t, "it is taken off the network", func() error {
		if r := loses.exec(t, "ip", "-o", "-4", "addr"); r.code != 0 || strings.Contains(r.stdout, loses.ip) {
			return errors.New(r.stdout + r.stderr)
		}
		return nil
	})
	for _, c := range []container{keeps, heir} {
		eventually(t, "reach "+c.name, func() error { return near.pings(t, c.ip) })
	}
	if r := try(t, 3, "socketplane", "restart", "-t", "0", loses.name); r.code == 0 || !strings.Contains(r.stderr, "create it anew") {
		t.Errorf("restarting it: exit status %d: %s", r.code, r.stderr)
	}
	remove(t, 3, loses.name)
	healthy(t, 3)
	eventually(t, "all is well", func() error { return invariants(t, network, subnet, 1, 2, 3) })
}
