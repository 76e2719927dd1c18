package systemtest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"
)

// times is how often a test repeats what it breaks: few here, many where there
// is time (make test-long).
func times(few, many int) int {
	if os.Getenv("SOCKETPLANE_TEST_LONG") != "" {
		return many
	}
	return few
}

// Promise: dockerd is killed and started again and again, the agent with it now
// and then, before, between or after: containers with a restart policy are back
// each time, through Docker's own networks and through `socketplane run`, with
// the address that was asked for or one of their network; what is not Docker's
// goes on; in the end nothing is left.
func TestDockerRestarts(t *testing.T) {
	makeNetwork(t, 1, "drs", "10.185.0.0/24")
	for k := 1; k <= 3; k++ {
		dockerHas(t, k, "drs", true)
	}
	before := [4][]string{1: traces(t, 1), 3: traces(t, 3)}
	far := runContainer(t, 1, "drs", "drs-far")
	fixed := runByDriver(t, 3, "drs", "drs-fixed", "--restart", "always", "--ip", "10.185.0.99")
	loose := runByDriver(t, 3, "drs", "drs-loose", "--restart", "always")
	wrapped := runContainer(t, 3, "drs", "drs-wrapped", "--restart", "always")
	ns := namespace(t, 3, "drs-ns")
	sp(t, 3, "connect", "-n", "drs", "--netns", ns, "--id", "drs-ns")
	t.Cleanup(func() { try(t, 3, "socketplane", "disconnect", "drs-ns") })
	beside := info(t, 3, "drs-ns").IP
	for _, ip := range []string{fixed.ip, loose.ip, wrapped.ip, beside} {
		eventually(t, "reach "+ip, func() error { return far.pings(t, ip) })
	}
	probe := startProbe(t, "what is not Docker's", far.namespace(t), beside)
	probe.awaitSent(t, 20)

	subnet := netip.MustParsePrefix("10.185.0.0/24")
	for round := range times(4, 20) {
		how := []string{"the agent lives", "the agent dies before", "the agent dies and comes later", "the agent dies after"}[round%4]
		if round >= 4 {
			how = []string{"the agent lives", "the agent dies before", "the agent dies and comes later", "the agent dies after"}[rand.IntN(4)]
		}
		start := time.Now()
		if how == "the agent dies before" || how == "the agent dies and comes later" {
			killAgent(t, 3)
		}
		service(t, 3, "kill", "dockerd")
		if how == "the agent dies before" {
			sp(t, 3, "agent", "start")
		}
		if how == "the agent dies and comes later" {
			// Docker calls the driver again and again for a while; its start must
			// not be waited for without an agent.
			ended := make(chan struct{})
			go func() { defer close(ended); sp(t, 3, "agent", "start") }()
			service(t, 3, "start", "dockerd")
			<-ended
		} else {
			service(t, 3, "start", "dockerd")
		}
		if how == "the agent dies after" {
			killAgent(t, 3)
			sp(t, 3, "agent", "start")
		}
		for _, name := range []string{"drs-fixed", "drs-loose", "drs-wrapped"} {
			eventuallyIn(t, 40*time.Second, fmt.Sprintf("round %d (%s): %s is back", round, how, name), func() error {
				r := try(t, 3, "docker", "inspect", "-f", `{{.State.Running}} {{.State.Error}} {{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}`, name)
				fields := strings.Fields(r.stdout)
				if len(fields) == 0 || fields[0] != "true" {
					return errors.New(r.stdout + r.stderr)
				}
				ip := fields[len(fields)-1]
				if name == "drs-wrapped" {
					ip = wrapped.ip
				}
				addr, err := netip.ParseAddr(ip)
				if err != nil || !subnet.Contains(addr) || name == "drs-fixed" && ip != fixed.ip {
					return fmt.Errorf("its address is %q", ip)
				}
				return far.pings(t, ip)
			})
		}
		t.Logf("round %d (%s): all back after %s", round, how, time.Since(start).Round(10*time.Millisecond))
	}
	awaitAgent(t, 3)
	// Ports of the userspace switch come and go in each round, see forgiven.
	lostLittle(t, probe)
	// What Docker forgot while the agent was away goes with the agent's next look.
	eventually(t, "five endpoints hold an address each", func() error {
		owners := map[string]bool{}
		addrs := held(t, "10.185.0.0/24")
		for _, owner := range addrs {
			owners[owner] = true
		}
		if len(addrs) != 5 || len(owners) != 5 {
			return fmt.Errorf("%v", addrs)
		}
		return nil
	})
	sp(t, 3, "disconnect", "drs-ns")
	removeByDocker(t, 3, "drs-fixed")
	removeByDocker(t, 3, "drs-loose")
	remove(t, 3, "drs-wrapped")
	remove(t, 1, "drs-far")
	for _, k := range []int{1, 3} {
		leavesNothing(t, k, before[k])
	}
}
