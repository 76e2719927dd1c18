package systemtest

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/socketplane/socketplane/agent/systemtest/lab"
)

// hostNamespace is the network namespace of host k itself.
func hostNamespace(k int) string { return cluster.Host(k).Namespace() }

// dropForwarded gives host k the FORWARD policy that Docker gives it, until the
// test ends.
func dropForwarded(t testing.TB, k int) {
	t.Helper()
	must(t, k, "iptables", "-P", "FORWARD", "DROP")
	t.Cleanup(func() { must(t, k, "iptables", "-P", "FORWARD", "ACCEPT") })
}

// Promise: a published port leads to its container from everywhere, over tcp and
// udp, and the container sees who asks; but for what comes from 127.0.0.1 or from
// its own network, which it sees as its gateway. Also where FORWARD drops.
func TestPublishedPortsFromEverywhere(t *testing.T) {
	dropForwarded(t, 1)
	makeNetwork(t, 1, "pub", "10.170.0.0/24")
	makeNetwork(t, 1, "pubother", "10.171.0.0/24")
	web := runContainer(t, 1, "pub", "pub-web", "-p", "18080:80", "-p", "15353:53/udp", "-p", "127.0.0.1:18081:80", "-p", "90")
	same, other := runContainer(t, 1, "pub", "pub-same"), runContainer(t, 1, "pubother", "pub-other")
	far, farOther := runContainer(t, 2, "pub", "pub-far"), runContainer(t, 2, "pubother", "pub-far-other")
	must(t, 1, "docker", "run", "-d", "--init", "--name", "pub-plain", lab.Image, "sleep", "100000")
	t.Cleanup(func() { must(t, 1, "docker", "rm", "-f", "pub-plain") })
	plain := container{host: 1, name: "pub-plain"}
	answer(t, web.namespace(t), "tcp", ":80")
	answer(t, web.namespace(t), "udp", ":53")
	answer(t, web.namespace(t), "tcp", ":90")

	const h1, gateway, otherGateway = "198.18.0.1", "10.170.0.1", "10.171.0.1"
	for _, c := range []struct{ name, namespace, to, sees string }{
		{"the outside", outsideNamespace, h1, "198.18.0.254"},
		{"a host with the network", hostNamespace(2), h1, "198.18.0.2"},
		{"a host without it", hostNamespace(3), h1, "198.18.0.3"},
		{"localhost", hostNamespace(1), "127.0.0.1", gateway},
		{"localhost by another name", hostNamespace(1), "127.9.9.9", gateway},
		{"the host by its own address", hostNamespace(1), h1, h1},
		{"the host by the gateway's", hostNamespace(1), gateway, gateway},
		{"the host by another gateway's", hostNamespace(1), otherGateway, otherGateway},
		{"itself", web.namespace(t), h1, gateway},
		{"a neighbour", same.namespace(t), h1, gateway},
		{"a neighbour by the gateway", same.namespace(t), gateway, gateway},
		{"another network", other.namespace(t), h1, other.ip},
		{"another network by its gateway", other.namespace(t), otherGateway, other.ip},
		{"its network on another host", far.namespace(t), h1, gateway},
		{"another network on another host", farOther.namespace(t), h1, farOther.ip},
		{"a container of Docker's", plain.namespace(t), h1, gateway}, // Docker masquerades what leaves its bridge
	} {
		for _, proto := range []string{"tcp", "udp"} {
			t.Run(c.name+" "+proto, func(t *testing.T) {
				port := map[string]string{"tcp": "18080", "udp": "15353"}[proto]
				saw, err := askFrom(c.namespace, proto, net.JoinHostPort(c.to, port))
				if err != nil || saw != c.sees {
					t.Errorf("the container sees %q, want %s: %v", saw, c.sees, err)
				}
			})
		}
	}
	t.Run("on 127.0.0.1 only", func(t *testing.T) {
		if _, err := askFrom(hostNamespace(1), "tcp", "127.0.0.1:18081"); err != nil {
			t.Error(err)
		}
		for _, from := range []string{outsideNamespace, hostNamespace(1), hostNamespace(2), other.namespace(t)} {
			if saw, err := askFrom(from, "tcp", h1+":18081"); err == nil {
				t.Errorf("%s is answered, as %s", from, saw)
			}
		}
	})
	t.Run("on a port that was chosen", func(t *testing.T) {
		chosen := info(t, 1, web.name).Ports[3].HostPort
		if saw, err := askFrom(outsideNamespace, "tcp", fmt.Sprintf("%s:%d", h1, chosen)); err != nil || saw != "198.18.0.254" {
			t.Errorf("port %d: %q, %v", chosen, saw, err)
		}
	})
	t.Run("beside its own address", func(t *testing.T) {
		// The same two ends, by the tunnel and by the underlay, in turn.
		for range 3 {
			for _, to := range []string{web.ip + ":80", h1 + ":18080"} {
				if saw, err := askFrom(hostNamespace(2), "tcp", to); err != nil || saw != "198.18.0.2" {
					t.Errorf("%s: %q, %v", to, saw, err)
				}
			}
		}
	})
	t.Run("no other port", func(t *testing.T) {
		for _, from := range []container{other, farOther} {
			if _, err := askFrom(from.namespace(t), "tcp", web.ip+":80"); err == nil {
				t.Errorf("%s reaches the container by its own address", from.name)
			}
		}
	})
	t.Run("the host's loopback stays its own", func(t *testing.T) {
		answer(t, hostNamespace(1), "tcp", "127.0.0.1:18082")
		must(t, 1, "nsenter", "-t", pidOf(t, same), "-n", "sh", "-c",
			"ip route del local 127.0.0.0/8 table local; ip addr del 127.0.0.1/8 dev lo; ip route add 127.0.0.0/8 via "+gateway+"; sysctl -qw net.ipv4.conf.eth0.route_localnet=1")
		if _, err := askFrom(same.namespace(t), "tcp", "127.0.0.1:18082"); err == nil {
			t.Error("a container speaks to the host's 127.0.0.1 (CVE-2020-8558)")
		}
	})
}

// Promise: a port that is taken is refused in one sentence that says by whom, with
// Docker's exit code and Docker's remains; what is published keeps programs out.
func TestPublishedPortConflicts(t *testing.T) {
	makeNetwork(t, 1, "pubtaken", "10.172.0.0/24")
	before := traces(t, 1)
	web := runContainer(t, 1, "pubtaken", "pt-web", "-p", "18180:80")
	listenOn := func(addr string) (net.Listener, error) {
		var l net.Listener
		err := inNamespace(hostNamespace(1), func() (err error) {
			l, err = net.Listen("tcp4", addr)
			return err
		})
		return l, err
	}
	for _, addr := range []string{":18180", "127.0.0.1:18180"} {
		if l, err := listenOn(addr); err == nil {
			_ = l.Close()
			t.Errorf("a program got %s", addr)
		}
	}
	program, err := listenOn("127.0.0.1:18181")
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	for _, c := range []struct{ name, publish, says string }{
		{"the same", "18180:90", `port 0.0.0.0:18180/tcp of this host is taken by "pt-web"`},
		{"on one address", "127.0.0.1:18180:90", `taken by "pt-web"`},
		{"a program's", "18181:80", "taken by another program"},
		{"not an address of the host", "192.0.2.77:18182:80", "not an address of this host"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := try(t, 1, "socketplane", "run", "-d", "--name", "pt-second", "-n", "pubtaken", "-p", c.publish, lab.Image, "sleep", "1000")
			if r.code != 125 || !strings.Contains(r.stderr, c.says) || strings.Count(r.stderr, "\n") != 1 {
				t.Errorf("exit status %d, %q", r.code, r.stderr)
			}
			// As Docker does: it is there, and was never started.
			if state := strings.TrimSpace(must(t, 1, "docker", "inspect", "-f", "{{.State.Status}}", "pt-second")); state != "created" {
				t.Errorf("the container is %s", state)
			}
			remove(t, 1, "pt-second")
			r = try(t, 1, "socketplane", "run", "--rm", "--name", "pt-second", "-n", "pubtaken", "-p", c.publish, lab.Image, "true")
			if r.code != 125 || !strings.Contains(r.stderr, c.says) {
				t.Errorf("with --rm: exit status %d, %q", r.code, r.stderr)
			}
			eventually(t, "--rm removes it", func() error {
				if try(t, 1, "docker", "inspect", "pt-second").code == 0 {
					return fmt.Errorf("it is there")
				}
				return nil
			})
		})
	}
	t.Run("free while it is stopped", func(t *testing.T) {
		sp(t, 1, "stop", "-t", "0", web.name)
		l, err := listenOn(":18180")
		if err != nil {
			t.Fatal(err)
		}
		if r := try(t, 1, "socketplane", "start", web.name); r.code == 0 || !strings.Contains(r.stderr, "another program") {
			t.Errorf("start: exit status %d, %q", r.code, r.stderr)
		}
		_ = l.Close()
		sp(t, 1, "start", web.name)
		answer(t, web.namespace(t), "tcp", ":80")
		if _, err := askFrom(outsideNamespace, "tcp", "198.18.0.1:18180"); err != nil {
			t.Error(err)
		}
		must(t, 1, "docker", "restart", "-t", "0", web.name)
		answer(t, web.namespace(t), "tcp", ":80")
		if _, err := askFrom(outsideNamespace, "tcp", "198.18.0.1:18180"); err != nil {
			t.Error("after a restart: ", err)
		}
	})
	remove(t, 1, web.name)
	leavesNothing(t, 1, before)
}
