package systemtest

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/socketplane/socketplane/agent/systemtest/lab"
)

// powerCut turns host k off without a word to anybody.
func powerCut(t testing.TB, k int) {
	t.Helper()
	host := cluster.Host(k)
	must(t, k, "ip", "link", "set", lab.ControlLink, "down") // the kernel would say good-bye for the dead
	t.Cleanup(func() {
		if host.Pid() == 0 { // the test has failed
			powerOn(t, k, bootOrder)
		}
	})
	if err := syscall.Kill(host.Pid(), syscall.SIGKILL); err != nil {
		t.Fatalf("h%d: %v", k, err)
	}
	eventuallyIn(t, time.Minute, "the power goes", func() error {
		if host.Pid() != 0 {
			return errors.New("it is on")
		}
		return nil
	})
	// The lab keeps a host's network namespace. A real machine's kernel forgets
	// what is in it.
	for _, argv := range [][]string{{"nft", "flush", "ruleset"}, {"ip", "link", "del", "docker0"}} {
		cmd := exec.Command("nsenter", append([]string{"--net=" + host.Namespace(), "--"}, argv...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("h%d: %q: %v: %s", k, argv, err, out)
		}
	}
}

// bootOrder is how a machine's programs usually start, for powerOn.
var bootOrder = [][]string{{"ovsdb-server"}, {"ovs-vswitchd"}, {"consul", "agent"}, {"dockerd"}}

// powerOn boots host k and starts its programs step by step, those of a step
// side by side.
func powerOn(t testing.TB, k int, steps [][]string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	host := cluster.Host(k)
	if err := host.Boot(ctx); err != nil {
		t.Fatalf("h%d: boot: %v", k, err)
	}
	for _, step := range steps {
		var g errgroup.Group
		for _, p := range step {
			g.Go(func() error {
				if p != "agent" {
					return host.Service(ctx, "start", p)
				}
				_, err := host.Exec(ctx, "socketplane", "agent", "start")
				return err
			})
		}
		if err := g.Wait(); err != nil {
			t.Fatalf("h%d: %v", k, err)
		}
	}
}

// Promise: after a power cut of a host its containers come back by their restart
// policy with their addresses, what was connected by hand is released, other
// hosts reach it again, and nothing is left of what is gone.
func TestPowerCut(t *testing.T) {
	orders := []struct {
		name  string
		steps [][]string
	}{
		{"one after the other", [][]string{{"ovsdb-server"}, {"ovs-vswitchd"}, {"consul"}, {"agent"}, {"dockerd"}}},
		{"all at once", [][]string{{"ovsdb-server"}, {"ovs-vswitchd"}, {"agent", "dockerd", "consul"}}},
	}
	makeNetwork(t, 1, "power", "10.153.0.0/24")
	far := runContainer(t, 1, "power", "po-far")
	for _, o := range orders {
		t.Run(o.name, func(t *testing.T) {
			cleanly := [2][]string{footprint(t, 1), footprint(t, 3)}
			back := runContainer(t, 3, "power", "po-back", "--restart", "always")
			dockerHas(t, 3, "power", true)
			driven := runByDriver(t, 3, "power", "po-driven", "--restart", "always")
			fixed := runByDriver(t, 3, "power", "po-fixed", "--restart", "always", "--ip", "10.153.0.222", "-p", "8080:80")
			off := runContainer(t, 3, "power", "po-off")
			ns := namespace(t, 3, "po-ns")
			sp(t, 3, "connect", "-n", "power", "--netns", ns, "--id", "po-ns")
			connected := info(t, 3, "po-ns").IP
			for _, ip := range []string{back.ip, driven.ip, fixed.ip, off.ip, connected} {
				eventually(t, "reach "+ip, func() error { return far.pings(t, ip) })
			}

			powerCut(t, 3)
			if err := far.pings(t, back.ip); err == nil {
				t.Fatal("a host without power answers")
			}
			if err := far.pings(t, "10.153.0.1", patiently...); err != nil {
				t.Errorf("the others are hurt: %v", err)
			}
			start := time.Now()
			powerOn(t, 3, o.steps)
			t.Logf("booted after %s", time.Since(start).Round(time.Millisecond))
			eventuallyIn(t, time.Minute, "others reach it again", func() error { return far.pings(t, back.ip) })
			t.Logf("reached after %s", time.Since(start).Round(time.Millisecond))
			awaitAgent(t, 3)
			if got := info(t, 3, back.name); got.IP != back.ip || got.Port == "" {
				t.Errorf("%s came back as %+v, had %s", back.name, got, back.ip)
			}
			for _, c := range []container{driven, fixed} {
				eventuallyIn(t, time.Minute, c.name+" is back on Docker's network", func() error {
					ip := dockersIP(t, 3, c.name, "power")
					if c.name == fixed.name && ip != fixed.ip {
						return fmt.Errorf("it has %q", ip)
					}
					return far.pings(t, ip)
				})
			}
			eventually(t, "its published port is back", func() error {
				// Nobody listens inside: refused is an answer of the container's.
				if r := try(t, 1, "curl", "-s", "--max-time", "2", "http://198.18.0.3:8080/"); r.code != 7 {
					return fmt.Errorf("curl exits %d", r.code)
				}
				return nil
			})
			eventually(t, "it reaches the outside", func() error { return back.pings(t, "203.0.113.1") })
			eventually(t, "what had no restart policy is detached and keeps its address", func() error {
				if e := info(t, 3, off.name); e.IP != off.ip || e.Port != "" {
					return fmt.Errorf("%+v", e)
				}
				return nil
			})
			eventually(t, "what was connected is released", func() error {
				if r := try(t, 3, "socketplane", "info", "po-ns"); r.code != 1 {
					return fmt.Errorf("status %d: %s", r.code, r.stdout)
				}
				return nil
			})
			sp(t, 3, "start", off.name)
			eventually(t, "it is reached again", func() error { return far.pings(t, off.ip) })
			listed := must(t, 3, "ovs-vsctl", "-t", "5", "show")
			if strings.Contains(listed, "error:") {
				t.Errorf("the switch has ports without interfaces:\n%s", listed)
			}
			remove(t, 3, back.name)
			removeByDocker(t, 3, driven.name)
			removeByDocker(t, 3, fixed.name)
			remove(t, 3, off.name)
			eventually(t, "nothing is left on h3", func() error { return differs(cleanly[1], footprint(t, 3)) })
			eventually(t, "nothing is left on h1", func() error { return differs(cleanly[0], footprint(t, 1)) })
		})
	}
}
