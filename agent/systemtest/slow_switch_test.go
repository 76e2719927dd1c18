package systemtest

import (
	"strings"
	"testing"
	"time"

	"github.com/socketplane/socketplane/agent/systemtest/lab"
)

// Promise: Docker is answered in time also when the switch's database hangs: a
// start fails with one sentence, soon, and nothing of it is left when that goes on.
func TestSwitchDatabaseHangs(t *testing.T) {
	// One call of Docker's that is answered within 5 s, and those that end the
	// endpoint: 6 s. Docker's own patience would be twice this and more.
	const bound = 15 * time.Second
	makeNetwork(t, 2, "hangs", "10.188.0.0/24")
	dockerHas(t, 2, "hangs", true)
	must(t, 2, "docker", "create", "--init", "--net", "hangs", "--name", "hangs-a", lab.Image, "sleep", "100000")
	t.Cleanup(func() { removeByDocker(t, 2, "hangs-a") })
	before := traces(t, 2)
	pid := strings.TrimSpace(must(t, 2, "cat", "/run/openvswitch/ovsdb-server.pid"))
	must(t, 2, "kill", "-STOP", pid)
	func() {
		defer must(t, 2, "kill", "-CONT", pid)
		start := time.Now()
		r := try(t, 2, "docker", "start", "hangs-a")
		took := time.Since(start)
		t.Logf("after %s: %s", took.Round(time.Millisecond), r.stderr)
		if r.code == 0 || took > bound {
			t.Errorf("docker start: exit status %d after %s", r.code, took)
		}
	}()
	healthy(t, 2)
	leavesNothing(t, 2, before)
	must(t, 2, "docker", "start", "hangs-a")
	c := container{host: 2, name: "hangs-a", ip: dockersIP(t, 2, "hangs-a", "hangs")}
	eventually(t, "reach the outside", func() error { return c.pings(t, "203.0.113.1") })
}
