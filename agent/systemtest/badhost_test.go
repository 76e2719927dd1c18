package systemtest

import (
	"strings"
	"testing"

	"github.com/socketplane/socketplane/agent/systemtest/lab"
)

// Promise: a second agent on one host is refused in one line, and harms nothing.
func TestSecondAgent(t *testing.T) {
	before := traces(t, 1)
	st, err := agentOn(t, 1).Status(within(t))
	if err != nil {
		t.Fatal(err)
	}
	badInput{argv: command("agent run"), code: 1, says: []string{"another agent", "socketplane agent status"}}.refused(t, 1)
	elsewhere := t.TempDir()
	badInput{argv: command("agent run --state-dir " + elsewhere), code: 1, says: []string{"another agent", "docker0-ovs", "socketplane agent status"}}.refused(t, 1)
	if out := sp(t, 1, "agent", "start"); !strings.Contains(out, "already runs") {
		t.Errorf("agent start says %q", out)
	}
	if now, err := agentOn(t, 1).Status(within(t)); err != nil || now.PID != st.PID || !now.Ready {
		t.Errorf("the first agent is %+v, %v; was %d", now, err, st.PID)
	}
	leavesNothing(t, 1, before)
}

// Promise: who is not root hears so in one line.
func TestNotRoot(t *testing.T) {
	before := traces(t, 1)
	for _, c := range []badInput{
		{"client", command("network list"), 3, []string{"permission", "root", "group"}},
		{"connect", command("connect --id x --netns /run/netns/x"), 3, []string{"permission"}},
		{"run", command("run " + lab.Image + " true"), 125, []string{"permission", "root"}},
		{"agent status", command("agent status"), 3, []string{"permission"}},
		{"agent start", command("agent start"), 3, []string{"permission"}},
		{"agent stop", command("agent stop"), 3, []string{"permission"}},
		{"agent run", command("agent run"), 1, []string{"root"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			// Also without root's group, which may use the socket.
			c.judge(t, try(t, 1, append([]string{"setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "socketplane"}, c.argv...)...))
			leavesNothing(t, 1, before)
		})
	}
	if st, err := agentOn(t, 1).Status(within(t)); err != nil || !st.Ready {
		t.Errorf("the agent is %+v, %v", st, err)
	}
}

// Promise: while the agent does not run, every command says so in one line and
// how to start it.
func TestAgentNotRunning(t *testing.T) {
	before := traces(t, 3)
	sp(t, 3, "agent", "stop")
	t.Cleanup(func() { sp(t, 3, "agent", "start"); healthy(t, 3) })
	var cases []badInput
	for _, line := range []string{
		"network create x", "network list", "network info x", "network delete x",
		"info", "info x", "connect --id x --netns /run/netns/x", "disconnect x", "agent status",
	} {
		cases = append(cases, badInput{line, command(line), 3, []string{"cannot be reached", "/run/socketplane/socketplane.sock", "socketplane agent start"}})
	}
	cases = append(cases, badInput{"run", command("run --rm " + lab.Image + " true"), 125, []string{"cannot be reached", "socketplane agent start"}})
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			c.refused(t, 3)
			leavesNothing(t, 3, before)
		})
	}
}

// Promise: while Open vSwitch is down a connect says so in one line, and when it
// is back nothing of the attempt is left. The lab's underlay is itself a bridge of
// Open vSwitch, so that Consul is away with it: an agent with a store of its own
// shows what is due to the switch alone.
func TestSwitchDown(t *testing.T) {
	ns := namespace(t, 3, "ovsdown")
	before := traces(t, 3)
	sp(t, 3, "agent", "stop")
	alone := []string{
		"env", "SOCKETPLANE_CONSUL_ADDRESS=", "SOCKETPLANE_DOCKER_ENABLED=false",
		"SOCKETPLANE_HOST_STATE_DIR=" + t.TempDir(), "socketplane", "agent", "start",
	}
	must(t, 3, alone...)
	t.Cleanup(func() {
		sp(t, 3, "agent", "restart")
		healthy(t, 3)
		leavesNothing(t, 3, before, "flow ") // the tunnels are new ports
	})
	healthy(t, 3)
	sp(t, 3, "network", "create", "ovsdown", "10.76.0.0/24")
	without := traces(t, 3)
	for _, program := range []string{"ovs-vswitchd", "ovsdb-server"} {
		t.Run(program, func(t *testing.T) {
			service(t, 3, "kill", program)
			func() {
				defer service(t, 3, "start", "ovs-vswitchd")
				defer service(t, 3, "start", program)
				badInput{argv: command("connect -n ovsdown --id x --netns " + ns), code: 1, says: []string{"Open vSwitch", "ovs-vswitchd", "try again"}}.refused(t, 3)
			}()
			healthy(t, 3)
			if left := sp(t, 3, "info", "--stopped", "-o", "json"); strings.TrimSpace(left) != "[]" {
				t.Errorf("info shows %s", left)
			}
			leavesNothing(t, 3, without)
			// The address is free again, and everything works.
			sp(t, 3, "connect", "-n", "ovsdown", "--id", "y", "--netns", ns, "--ip", "10.76.0.2")
			sp(t, 3, "disconnect", "y")
			leavesNothing(t, 3, without)
		})
	}
}

// Promise: while Consul is down what needs it says so in one line, and when it is
// back nothing of the attempts is left.
func TestStoreDown(t *testing.T) {
	makeNetwork(t, 2, "kvdown", "10.77.0.0/24")
	ns := namespace(t, 2, "kvdown")
	before := traces(t, 2)
	service(t, 2, "kill", "consul")
	func() {
		defer service(t, 2, "start", "consul")
		for _, c := range []badInput{
			{"create", command("network create kvdown2"), 1, []string{"store cannot be reached", "consul", "try again"}},
			{"list", command("network list"), 1, []string{"store cannot be reached"}},
			{"delete", command("network delete kvdown"), 1, []string{"store cannot be reached"}},
			{"connect", command("connect -n kvdown --id x --netns " + ns), 1, []string{"store cannot be reached"}},
			{"run", command("run --rm -n kvdown " + lab.Image + " true"), 125, []string{"store cannot be reached"}},
		} {
			t.Run(c.name, func(t *testing.T) { c.refused(t, 2) })
		}
	}()
	healthy(t, 2)
	leavesNothing(t, 2, before)
}

// Promise: a Consul that hangs may do what it was told long after the answer was
// waited for; of a connect that was told to have failed nothing is left even then.
func TestStoreHangs(t *testing.T) {
	makeNetwork(t, 2, "kvhangs", "10.89.0.0/24")
	ns := namespace(t, 2, "kvhangs")
	// So that the agent has read what it needs, and begins with a write.
	sp(t, 2, "connect", "-n", "kvhangs", "--id", "kept", "--netns", namespace(t, 2, "kvkept"))
	t.Cleanup(func() { sp(t, 2, "disconnect", "kept") })
	before := traces(t, 2)
	pid := strings.TrimSpace(must(t, 2, "cat", "/run/lab/consul.pid"))
	must(t, 2, "kill", "-STOP", pid)
	func() {
		defer must(t, 2, "kill", "-CONT", pid)
		badInput{argv: command("connect -n kvhangs --id x --netns " + ns), code: 1, says: []string{"store cannot be reached", "try again"}}.refused(t, 2)
	}()
	healthy(t, 2)
	leavesNothing(t, 2, before)
	sp(t, 2, "connect", "-n", "kvhangs", "--id", "y", "--netns", ns)
	sp(t, 2, "disconnect", "y")
	leavesNothing(t, 2, before)
}
