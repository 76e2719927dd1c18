//go:build long

package systemtest

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/socketplane/socketplane/agent/systemtest/lab"
)

// Promise: what Docker could not bring back, since the agent came later than
// Docker's patience lasts, the agent brings back; who was stopped by hand stays so.
func TestLateAgent(t *testing.T) {
	makeNetwork(t, 1, "late", "10.187.0.0/24")
	dockerHas(t, 3, "late", true)
	far := runContainer(t, 1, "late", "late-far")
	driven := runByDriver(t, 3, "late", "late-driven", "--restart", "always", "--ip", "10.187.0.9")
	wrapped := runContainer(t, 3, "late", "late-wrapped", "--restart", "always")
	must(t, 3, "docker", "run", "-d", "--init", "--net", "late", "--restart", "unless-stopped", "--name", "late-stopped", lab.Image, "sleep", "100000")
	t.Cleanup(func() { removeByDocker(t, 3, "late-stopped") })
	must(t, 3, "docker", "stop", "-t", "1", "late-stopped")
	sp(t, 3, "agent", "stop")
	service(t, 3, "kill", "dockerd")
	// Its start lasts as long as its patience; the command gives up before.
	_ = cluster.Host(3).Service(t.Context(), "start", "dockerd")
	eventuallyIn(t, 2*time.Minute, "Docker gives up on both", func() error {
		r := try(t, 3, "docker", "inspect", "-f", "{{.State.Running}} {{.State.Error}}", "late-driven", "late-wrapped")
		lines := strings.Split(strings.TrimSpace(r.stdout), "\n")
		for _, l := range lines {
			if len(lines) != 2 || !strings.HasPrefix(l, "false ") || len(l) < len("false x") {
				return errors.New(r.stdout + r.stderr)
			}
		}
		return nil
	})
	sp(t, 3, "agent", "start")
	for _, ip := range []string{driven.ip, wrapped.ip} {
		eventuallyIn(t, 20*time.Second, ip+" is back", func() error { return far.pings(t, ip) })
	}
	if s := must(t, 3, "docker", "inspect", "-f", "{{.State.Running}}", "late-stopped"); strings.TrimSpace(s) != "false" {
		t.Error("what was stopped by hand was started")
	}
}

// Promise: an agent that is dead costs who starts a container Docker's own
// retries and no more, with an error that names the driver; nothing is left.
func TestDeadAgent(t *testing.T) {
	makeNetwork(t, 1, "deadone", "10.189.0.0/24")
	dockerHas(t, 3, "deadone", true)
	before := traces(t, 3)
	killAgent(t, 3)
	t.Cleanup(func() { sp(t, 3, "agent", "start") })
	start := time.Now()
	r := try(t, 3, "docker", "run", "--rm", "--net", "deadone", lab.Image, "true")
	if took := time.Since(start); r.code != 125 || !strings.Contains(r.stderr, "socketplane") || took > 40*time.Second {
		t.Errorf("after %s: exit status %d, %s", took, r.code, r.stderr)
	} else {
		t.Logf("after %s: %s", took.Round(time.Second), r.stderr)
	}
	sp(t, 3, "agent", "start")
	awaitAgent(t, 3)
	leavesNothing(t, 3, before)
	must(t, 3, "docker", "run", "--rm", "--net", "deadone", lab.Image, "true")
	leavesNothing(t, 3, before)
}
