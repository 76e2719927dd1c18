package systemtest

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/socketplane/socketplane/agent/systemtest/lab"
)

// Promise: a network made on one host is there on another seconds later with
// nothing set up, and a container on it has the interface that Docker users expect.
func TestRunOnAnotherHost(t *testing.T) {
	makeNetwork(t, 1, "runother", "10.20.0.0/16")
	a := runContainer(t, 3, "runother", "ro-a")
	b := runContainer(t, 2, "runother", "ro-b")
	for _, c := range []container{a, b} {
		ip := netip.MustParseAddr(c.ip)
		if !netip.MustParsePrefix("10.20.0.0/16").Contains(ip) {
			t.Errorf("%s has address %s, outside its network", c.name, ip)
		}
		shown := c.exec(t, "ip", "addr", "show", "eth0").stdout
		as4 := ip.As4()
		for _, want := range []string{
			"inet " + c.ip + "/16", "mtu 1450",
			fmt.Sprintf("link/ether 02:42:%02x:%02x:%02x:%02x", as4[0], as4[1], as4[2], as4[3]),
		} {
			if !strings.Contains(shown, want) {
				t.Errorf("eth0 of %s lacks %q:\n%s", c.name, want, shown)
			}
		}
	}
	// 1,450 bytes of IP are 1,422 of ping's payload.
	eventually(t, "full-size ping across hosts", func() error { return a.pings(t, b.ip, "-s", "1422") })
	eventually(t, "full-size ping back", func() error { return b.pings(t, a.ip, "-s", "1422") })
}

// Promise: the very first instruction of a container has its network. 50 of 50.
func TestFirstInstructionHasNetwork(t *testing.T) {
	makeNetwork(t, 1, "first", "10.21.0.0/24")
	for i := range 50 {
		out := sp(t, 1+i%3, "run", "--rm", "-n", "first", lab.Image, "ip", "-4", "addr", "show", "eth0")
		if !strings.Contains(out, "inet 10.21.0.") {
			t.Fatalf("run %d: no address in:\n%s", i, out)
		}
	}
}

// Promise: restart, and stop and start, keep the address; a container that is
// renamed is known by its new name; rm -f leaves nothing.
func TestAddressIsKeptUntilRemoved(t *testing.T) {
	before := footprint(t, 1)
	makeNetwork(t, 1, "keep", "10.22.0.0/24")
	a := runContainer(t, 1, "keep", "keep-a")
	peer := runContainer(t, 2, "keep", "keep-b")
	for _, verbs := range [][]string{{"restart -t 1"}, {"stop -t 1", "start"}} {
		for _, verb := range verbs {
			must(t, 1, append(append([]string{"docker"}, strings.Fields(verb)...), "keep-a")...)
		}
		if got := info(t, 1, "keep-a").IP; got != a.ip {
			t.Fatalf("after %v the address is %s, was %s", verbs, got, a.ip)
		}
		if shown := a.exec(t, "ip", "-4", "addr", "show", "eth0").stdout; !strings.Contains(shown, a.ip+"/24") {
			t.Fatalf("after %v eth0 lacks %s:\n%s", verbs, a.ip, shown)
		}
		eventually(t, "reach it again", func() error { return peer.pings(t, a.ip) })
	}
	sp(t, 1, "stop", "-t", "1", "keep-a")
	if got := info(t, 1, "keep-a"); got.IP != a.ip || got.Port != "" {
		t.Errorf("while it is stopped its address is %s and its port %q; want %s and none", got.IP, got.Port, a.ip)
	}
	sp(t, 1, "start", "keep-a")
	eventually(t, "reach it again", func() error { return peer.pings(t, a.ip) })
	for _, name := range []string{"keep-z", "keep-a"} {
		must(t, 1, "docker", "rename", a.name, name)
		a.name = name
		eventually(t, "the agent knows "+name, func() error {
			if r := try(t, 1, "socketplane", "info", name, "-o", "json"); r.code != 0 || !strings.Contains(r.stdout, `"`+a.ip+`"`) {
				return errors.New(r.stdout + r.stderr)
			}
			return nil
		})
	}

	must(t, 1, "docker", "rm", "-f", "keep-a")
	eventually(t, "its endpoint goes", func() error {
		if r := try(t, 1, "socketplane", "info", "keep-a"); r.code == 0 {
			return fmt.Errorf("info still shows %s", r.stdout)
		}
		return nil
	})
	must(t, 2, "docker", "rm", "-f", "keep-b")
	sp(t, 1, "network", "info", "keep")
	eventually(t, "nothing is left but the network", func() error {
		return differs(before, footprint(t, 1), "networks/keep", "vlans/", "network-generation")
	})
}

// Promise: -d, -i, --rm and exit codes behave as Docker's.
func TestRunBehavesAsDocker(t *testing.T) {
	makeNetwork(t, 2, "asdocker", "10.23.0.0/24")
	tests := []struct {
		name  string
		flags []string
		cmd   []string
		stdin string
	}{
		{"output", []string{"--rm"}, []string{"echo", "hello"}, ""},
		{"exit code", []string{"--rm"}, []string{"sh", "-c", "exit 42"}, ""},
		{"stderr apart", []string{"--rm"}, []string{"sh", "-c", "echo out; echo err >&2"}, ""},
		{"stdin", []string{"--rm", "-i"}, []string{"cat"}, "one\ntwo\n"},
		{"no stdin without -i", []string{"--rm"}, []string{"cat"}, "lost\n"},
		{"environment and workdir", []string{"--rm", "-e", "A=b c", "-w", "/tmp"}, []string{"sh", "-c", "echo $A; pwd"}, ""},
		{"no such program", []string{"--rm"}, []string{"no-such-program"}, ""},
		{"not executable", []string{"--rm"}, []string{"/etc"}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			base := append(append([]string{}, tt.flags...), append([]string{lab.Image}, tt.cmd...)...)
			want := tryInput(t, 2, tt.stdin, append([]string{"docker", "run", "--net", "none"}, base...)...)
			got := tryInput(t, 2, tt.stdin, append([]string{"socketplane", "run", "-n", "asdocker"}, base...)...)
			if got.code != want.code || got.stdout != want.stdout {
				t.Errorf("got %d %q, Docker gives %d %q\nstderr: %s", got.code, got.stdout, want.code, want.stdout, got.stderr)
			}
			if want.code < 125 && got.stderr != want.stderr {
				t.Errorf("stderr is %q, Docker's is %q", got.stderr, want.stderr)
			}
		})
	}
	t.Run("detached prints the id", func(t *testing.T) {
		id := strings.TrimSpace(sp(t, 2, "run", "-d", "--rm", "-n", "asdocker", lab.Image, "sleep", "100"))
		defer must(t, 2, "docker", "rm", "-f", id)
		if full := strings.TrimSpace(must(t, 2, "docker", "inspect", "-f", "{{.Id}}", id)); full != id {
			t.Errorf("printed %q, Docker knows %q", id, full)
		}
	})
	t.Run("a pseudo-terminal", func(t *testing.T) {
		out := must(t, 2, "script", "-qec", "socketplane run --rm -it -n asdocker "+lab.Image+" tty", "/dev/null")
		if !strings.Contains(out, "/dev/pts/") && !strings.Contains(out, "/dev/console") {
			t.Errorf("tty says %q", out)
		}
	})
	t.Run("published ports are refused where they are no ports", func(t *testing.T) {
		r := try(t, 2, "socketplane", "run", "--rm", "-p", "80:80/sctp", "-n", "asdocker", lab.Image, "true")
		if r.code != 125 || !strings.Contains(r.stderr, "neither tcp nor udp") {
			t.Errorf("got %d %q", r.code, r.stderr)
		}
	})
	eventually(t, "no endpoint is left", func() error {
		if out := sp(t, 2, "info", "-o", "json"); strings.TrimSpace(out) != "[]" {
			return fmt.Errorf("info shows %s", out)
		}
		return nil
	})
}

// Promise: the container finds its own name in /etc/hosts, also after a restart.
func TestOwnNameInHosts(t *testing.T) {
	makeNetwork(t, 1, "hosts", "10.24.0.0/24")
	c := runContainer(t, 1, "hosts", "hosts-a", "--hostname", "alpha")
	for _, when := range []string{"at first", "after a restart"} {
		hosts := c.exec(t, "cat", "/etc/hosts").stdout
		if n := strings.Count(hosts, c.ip); n != 1 || !strings.Contains(hosts, "alpha") {
			t.Errorf("%s: the address stands %d times in:\n%s", when, n, hosts)
		}
		must(t, 1, "docker", "restart", "-t", "1", "hosts-a")
	}
	if err := c.pings(t, "alpha"); err != nil {
		t.Error(err)
	}
}
