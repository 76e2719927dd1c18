package systemtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/systemtest/lab"
)

// testTimeout bounds one command of a test; eventually bounds a wait for
// something that should come true by itself. That is longer than Consul's
// servers need for a new leader, after a loss of theirs: with Consul's own timing
// up to 10 s until they miss it, and as long for each vote that nobody wins.
const (
	testTimeout  = 60 * time.Second
	eventualWait = 40 * time.Second
)

// result is what a command on a host left behind.
type result struct {
	stdout, stderr string
	code           int
}

// try runs a command on host k and gives all that it said.
func try(t testing.TB, k int, argv ...string) result {
	t.Helper()
	return tryInput(t, k, "", argv...)
}

func tryInput(t testing.TB, k int, stdin string, argv ...string) result {
	t.Helper()
	return tryWithin(t, testTimeout, k, stdin, argv...)
}

// tryWithin is try with a limit of its own and stdin.
func tryWithin(t testing.TB, limit time.Duration, k int, stdin string, argv ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := cluster.Host(k).Command(ctx, argv...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	err := cmd.Run()
	r := result{stdout: stdout.String(), stderr: stderr.String()}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		r.code = exit.ExitCode()
	} else if err != nil {
		t.Fatalf("h%d: %q: %v", k, argv, err)
	}
	return r
}

// must runs a command on host k that has to succeed and gives its output.
func must(t testing.TB, k int, argv ...string) string {
	t.Helper()
	r := try(t, k, argv...)
	if r.code != 0 {
		t.Fatalf("h%d: %q: exit status %d\n%s%s", k, argv, r.code, r.stdout, r.stderr)
	}
	return r.stdout
}

// sp is `socketplane ARGS` on host k, which has to succeed.
func sp(t testing.TB, k int, args ...string) string {
	t.Helper()
	return must(t, k, append([]string{"socketplane"}, args...)...)
}

// eventually waits until f is satisfied; f says what is wrong still.
func eventually(t testing.TB, what string, f func() error) {
	t.Helper()
	eventuallyIn(t, eventualWait, what, f)
}

// eventuallyIn is eventually with another deadline.
func eventuallyIn(t testing.TB, wait time.Duration, what string, f func() error) {
	t.Helper()
	deadline := time.Now().Add(wait)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not after %s: %v", what, wait, err)
		}
		<-tick.C
	}
}

// makeNetwork makes a network for this test from host k and deletes it at the end.
func makeNetwork(t testing.TB, k int, name, subnet string) {
	t.Helper()
	// A test before may have cost Consul its leader. Making it again is harmless.
	eventually(t, "create network "+name, func() error {
		r := try(t, k, "socketplane", "network", "create", name, subnet)
		if r.code != 0 && !strings.Contains(r.stderr, "the store cannot be reached") {
			t.Fatalf("h%d: network create %s %s: exit status %d: %s", k, name, subnet, r.code, r.stderr)
		}
		if r.code != 0 {
			return errors.New(r.stderr)
		}
		return nil
	})
	var made struct {
		VNI int `json:"vni"`
	}
	decode(t, sp(t, k, "network", "info", name, "-o", "json"), &made)
	t.Cleanup(func() {
		deleteNetwork(t, k, name)
		// A network lingers a moment, and the next test looks at what is there:
		// its flows go last.
		for _, h := range cluster.Hosts() {
			eventually(t, "what serves it goes on "+h.Name, func() error {
				ports := try(t, h.Number, "ovs-vsctl", "-t", "5", "--columns=name", "find", "port",
					"external_ids:socketplane_kind=gateway", "external_ids:socketplane_network="+name)
				if ports.code != 0 || ports.stdout != "" {
					return errors.New(ports.stdout + ports.stderr)
				}
				if rules := try(t, h.Number, "iptables-save"); rules.code != 0 || strings.Contains(rules.stdout, gatewayPort(name)) {
					return errors.New("the packet filter's rules are there: " + rules.stderr)
				}
				flows := try(t, h.Number, "ovs-ofctl", "-O", "OpenFlow13", "dump-flows", "docker0-ovs")
				if flows.code != 0 || strings.Contains(flows.stdout, fmt.Sprintf("reg0=%#x,", made.VNI)) {
					return errors.New("its flows are there: " + flows.stderr)
				}
				return nil
			})
		}
	})
}

// deleteNetwork deletes a network as soon as nobody is on it.
func deleteNetwork(t testing.TB, k int, name string) {
	t.Helper()
	eventually(t, "delete network "+name, func() error {
		if r := try(t, k, "socketplane", "network", "delete", name); r.code != 0 {
			return errors.New(r.stderr)
		}
		return nil
	})
}

// container is one that runs for a test.
type container struct {
	host int
	name string
	ip   string
}

// runContainer starts a container that sleeps, and removes it at the end.
func runContainer(t testing.TB, k int, network, name string, flags ...string) container {
	t.Helper()
	args := append([]string{"run", "-n", network, "-d", "--init", "--name", name}, flags...)
	sp(t, k, append(args, lab.Image, "sleep", "100000")...)
	t.Cleanup(func() { remove(t, k, name) })
	return container{host: k, name: name, ip: info(t, k, name).IP}
}

// remove takes a container away, if it is there.
func remove(t testing.TB, k int, name string) {
	t.Helper()
	if try(t, k, "docker", "inspect", name).code == 0 {
		sp(t, k, "rm", "-f", name)
	}
}

// exec runs a command in the container.
func (c container) exec(t testing.TB, argv ...string) result {
	t.Helper()
	return try(t, c.host, append([]string{"docker", "exec", c.name}, argv...)...)
}

// patiently has one ping wait long for its answer: for what must be reached all
// the time, on a machine that may stand still for a second.
var patiently = []string{"-W", "10"}

// pings says whether the container reaches an address, with the given flags of ping.
func (c container) pings(t testing.TB, ip string, flags ...string) error {
	t.Helper()
	argv := append([]string{"ping", "-c", "1", "-W", "1"}, flags...)
	if r := c.exec(t, append(argv, ip)...); r.code != 0 {
		return errors.New("no answer from " + ip + ": " + r.stdout + r.stderr)
	}
	return nil
}

// endpoint is what `socketplane info -o json` shows.
type endpoint struct {
	ContainerID   string `json:"container_id"`
	ContainerName string `json:"container_name"`
	Network       string `json:"network"`
	IP            string `json:"ip"`
	MAC           string `json:"mac"`
	Gateway       string `json:"gateway"`
	Port          string `json:"port"`
	Host          string `json:"host"`

	Ports []api.PortMapping `json:"ports"`
}

func info(t testing.TB, k int, ref string) endpoint {
	t.Helper()
	var e endpoint
	decode(t, sp(t, k, "info", ref, "-o", "json"), &e)
	return e
}

func decode(t testing.TB, text string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), into); err != nil {
		t.Fatalf("not the JSON expected: %v\n%s", err, text)
	}
}
