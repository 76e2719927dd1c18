package systemtest

import (
	"fmt"
	"net"
	"strings"
	"testing"
)

// Promise: connections to a published port, and new ones, go on while the agent is
// dead and after it has come back; with the container all of it is gone.
func TestPublishedPortsOutliveTheAgent(t *testing.T) {
	makeNetwork(t, 1, "publife", "10.173.0.0/24")
	runContainer(t, 2, "publife", "pl-far") // so that answers to h2 could go by the tunnel
	before := traces(t, 1)
	var webs []container
	for i, p := range publishers() {
		web := p.start(t, 1, "publife", "pl-web-"+p.cmd, "-p", fmt.Sprintf("%d:80", 18280+i), "-p", fmt.Sprintf("%d:53/udp", 15253+i), "-p", "91")
		answer(t, web.namespace(t), "tcp", ":80")
		answer(t, web.namespace(t), "udp", ":53")
		webs = append(webs, web)
	}
	ports := map[string]string{"18280": "tcp", "15253": "udp", "18281": "tcp", "15254": "udp"}
	var open []*speaker
	for _, from := range []string{outsideNamespace, hostNamespace(1), hostNamespace(2)} {
		for port, proto := range ports {
			s, err := dialFrom(from, proto, "198.18.0.1:"+port)
			if err != nil {
				t.Fatal(from, proto, err)
			}
			defer s.Close()
			open = append(open, s)
		}
	}
	check := func(when string) {
		t.Helper()
		for _, s := range open {
			if _, err := s.ask(); err != nil {
				t.Errorf("%s: %s %s to %s: %v", when, s.LocalAddr().Network(), s.LocalAddr(), s.RemoteAddr(), err)
			}
		}
		for _, from := range []string{outsideNamespace, hostNamespace(1), hostNamespace(2)} {
			for port, proto := range ports {
				if _, err := askFrom(from, proto, "198.18.0.1:"+port); err != nil {
					t.Errorf("%s: a new one to %s/%s from %s: %v", when, port, proto, from, err)
				}
			}
		}
	}
	check("at first")
	shown := func() string {
		var all []endpoint
		for _, web := range webs {
			all = append(all, info(t, 1, web.name))
		}
		return fmt.Sprint(all)
	}
	first := shown()
	killAgent(t, 1)
	check("without an agent")
	sp(t, 1, "agent", "start")
	awaitAgent(t, 1)
	healthy(t, 1)
	check("with a new agent")
	if now := shown(); now != first {
		t.Errorf("info shows %v, before %v", now, first)
	}
	for i, p := range publishers() {
		if r := p.run(t, "publife", "pl-second", "--rm", "-p", fmt.Sprintf("%d:80", 18280+i)); r.code != 125 || !strings.Contains(r.stderr, webs[i].name) {
			t.Errorf("the port is not held any more: %d %q", r.code, r.stderr)
		}
	}
	t.Run("the switch restarts", func(t *testing.T) {
		service(t, 1, "kill", "ovs-vswitchd")
		service(t, 1, "start", "ovs-vswitchd")
		healthy(t, 1)
		eventually(t, "everything is answered", func() error {
			for _, s := range open {
				if _, err := s.ask(); err != nil {
					return err
				}
			}
			return nil
		})
		check("with a new switch")
	})
	for _, web := range webs {
		must(t, 1, "docker", "rm", "-f", web.name)
	}
	leavesNothing(t, 1, before, "flow ") // of the switch's new ports
	eventually(t, "no connection to them is tracked", func() error {
		if out := try(t, 1, "grep", "-w", "-e", webs[0].ip, "-e", webs[1].ip, "/proc/net/nf_conntrack").stdout; out != "" {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
	for _, s := range open {
		if _, err := s.ask(); err == nil {
			t.Errorf("%s is still answered", s.LocalAddr())
		}
	}
}

// Promise: who sends to a UDP port before it is published is answered once it is,
// with no pause; connect publishes as run does, and so do -P and another container
// that takes the port over.
func TestPublishedPortsComeAndGo(t *testing.T) {
	makeNetwork(t, 1, "pubcome", "10.174.0.0/24")
	before := traces(t, 1)
	var open []*speaker
	for _, from := range []string{outsideNamespace, hostNamespace(1), hostNamespace(2)} {
		s, err := dialFrom(from, "udp", "198.18.0.1:15454")
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		open = append(open, s)
		for range 2 {
			if _, err := s.Write([]byte("anybody?\n")); err != nil && !strings.Contains(err.Error(), "refused") {
				t.Fatal(err)
			}
		}
	}
	for round := range 2 {
		name := fmt.Sprintf("pc-%d", round)
		c := runContainer(t, 1, "pubcome", name, "-p", "15454:53/udp", "-P", "--expose", "80", "--expose", "9000/udp")
		answer(t, c.namespace(t), "udp", ":53")
		answer(t, c.namespace(t), "tcp", ":80")
		for _, s := range open {
			eventually(t, "an answer to "+s.LocalAddr().String(), func() error { // an ICMP error of before may come first
				_, err := s.ask()
				return err
			})
		}
		e := info(t, 1, name)
		if len(e.Ports) != 3 || e.Ports[1].ContainerPort != 80 || e.Ports[1].HostPort == 0 || e.Ports[2].Proto != "udp" || e.Ports[2].HostPort == 0 {
			t.Fatalf("-P: %+v", e.Ports)
		}
		if _, err := askFrom(outsideNamespace, "tcp", fmt.Sprintf("198.18.0.1:%d", e.Ports[1].HostPort)); err != nil {
			t.Error("-P: ", err)
		}
		remove(t, 1, name)
	}
	ns := namespace(t, 1, "pc-ns")
	sp(t, 1, "connect", "-n", "pubcome", "--netns", ns, "--id", "pc-ns", "-p", "18480:80", "-p", "15454:53/udp")
	path := insideHost(t, 1, ns)
	answer(t, path, "tcp", ":80")
	if saw, err := askFrom(outsideNamespace, "tcp", net.JoinHostPort("198.18.0.1", "18480")); err != nil || saw != "198.18.0.254" {
		t.Errorf("connect -p: %q, %v", saw, err)
	}
	if out := sp(t, 1, "info", "pc-ns"); !strings.Contains(out, "PUBLISHED") || !strings.Contains(out, "0.0.0.0:18480->80/tcp, 0.0.0.0:15454->53/udp") {
		t.Errorf("info shows\n%s", out)
	}
	sp(t, 1, "disconnect", "pc-ns")
	leavesNothing(t, 1, before)
}
