package systemtest

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
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

// publisher is a way to start a container with published ports: the words of
// SocketPlane's own command, or those of plain Docker, through its driver.
type publisher struct{ cmd, net string }

func publishers() []publisher {
	return []publisher{{"socketplane", "-n"}, {"docker", "--net"}}
}

// start starts a container that sleeps, and waits until it is known by name.
func (p publisher) start(t testing.TB, k int, network, name string, flags ...string) container {
	t.Helper()
	if p.cmd != "docker" {
		return runContainer(t, k, network, name, flags...)
	}
	dockerHas(t, k, network, true)
	c := runByDriver(t, k, network, name, flags...)
	described(t, c)
	return c
}

// run runs a container on host 1's network and gives what was said of it.
func (p publisher) run(t testing.TB, network, name string, flags ...string) result {
	t.Helper()
	argv := append([]string{p.cmd, "run", "--name", name, p.net, network}, flags...)
	return try(t, 1, append(argv, lab.Image, "sleep", "1000")...)
}

// published is a container whose ports 80/tcp, 53/udp and 90/tcp are published,
// the last on a port that was chosen, and 80/tcp on 127.0.0.1 once more.
type published struct {
	container
	way             string
	tcp, udp, local string
}

// Promise: a published port leads to its container from everywhere, over tcp and
// udp, and the container sees who asks; but for what comes from 127.0.0.1 or from
// its own network, which it sees as its gateway. Also where FORWARD drops, and
// whether `socketplane run` or plain Docker started it.
func TestPublishedPortsFromEverywhere(t *testing.T) {
	dropForwarded(t, 1)
	makeNetwork(t, 1, "pub", "10.170.0.0/24")
	makeNetwork(t, 1, "pubother", "10.171.0.0/24")
	var webs []published
	for i, p := range publishers() {
		web := published{way: p.cmd, tcp: fmt.Sprint(18080 + 10*i), udp: fmt.Sprint(15353 + i), local: fmt.Sprint(18081 + 10*i)}
		web.container = p.start(t, 1, "pub", "pub-web-"+p.cmd, "-p", web.tcp+":80", "-p", web.udp+":53/udp", "-p", "127.0.0.1:"+web.local+":80", "-p", "90")
		answer(t, web.namespace(t), "tcp", ":80")
		answer(t, web.namespace(t), "udp", ":53")
		answer(t, web.namespace(t), "tcp", ":90")
		webs = append(webs, web)
	}
	same, other := runContainer(t, 1, "pub", "pub-same"), runContainer(t, 1, "pubother", "pub-other")
	far, farOther := runContainer(t, 2, "pub", "pub-far"), runContainer(t, 2, "pubother", "pub-far-other")
	must(t, 1, "docker", "run", "-d", "--init", "--name", "pub-plain", lab.Image, "sleep", "100000")
	t.Cleanup(func() { must(t, 1, "docker", "rm", "-f", "pub-plain") })
	plain := container{host: 1, name: "pub-plain"}
	// Who asks from h2 is answered once h1 knows it.
	eventually(t, "h1 knows who is far", func() error { return errors.Join(far.pings(t, same.ip), farOther.pings(t, other.ip)) })

	const h1, gateway, otherGateway = "198.18.0.1", "10.170.0.1", "10.171.0.1"
	for _, web := range webs {
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
			// What a container sends to another host leaves masqueraded as its own host.
			{"its network on another host", far.namespace(t), h1, "198.18.0.2"},
			{"another network on another host", farOther.namespace(t), h1, "198.18.0.2"},
			{"a container of Docker's", plain.namespace(t), h1, gateway}, // Docker masquerades what leaves its bridge
		} {
			for proto, port := range map[string]string{"tcp": web.tcp, "udp": web.udp} {
				t.Run(web.way+" "+c.name+" "+proto, func(t *testing.T) {
					saw, err := askFrom(c.namespace, proto, net.JoinHostPort(c.to, port))
					if err != nil || saw != c.sees {
						t.Errorf("the container sees %q, want %s: %v", saw, c.sees, err)
					}
				})
			}
		}
		t.Run(web.way+" on 127.0.0.1 only", func(t *testing.T) {
			if _, err := askFrom(hostNamespace(1), "tcp", "127.0.0.1:"+web.local); err != nil {
				t.Error(err)
			}
			notAnswered(t, h1+":"+web.local, outsideNamespace, hostNamespace(1), hostNamespace(2), other.namespace(t))
		})
		t.Run(web.way+" on a port that was chosen", func(t *testing.T) {
			var chosen uint16
			for _, p := range info(t, 1, web.name).Ports {
				if p.ContainerPort == 90 {
					chosen = p.HostPort
				}
			}
			if saw, err := askFrom(outsideNamespace, "tcp", fmt.Sprintf("%s:%d", h1, chosen)); err != nil || saw != "198.18.0.254" {
				t.Errorf("port %d: %q, %v", chosen, saw, err)
			}
		})
		t.Run(web.way+" beside its own address", func(t *testing.T) {
			// The same two ends, by the tunnel and by the underlay, in turn.
			for range 3 {
				for _, to := range []string{web.ip + ":80", h1 + ":" + web.tcp} {
					if saw, err := askFrom(hostNamespace(2), "tcp", to); err != nil || saw != "198.18.0.2" {
						t.Errorf("%s: %q, %v", to, saw, err)
					}
				}
			}
		})
		t.Run(web.way+" no other port", func(t *testing.T) {
			notAnswered(t, web.ip+":80", other.namespace(t), farOther.namespace(t))
		})
	}
	t.Run("the host's loopback stays its own", func(t *testing.T) {
		answer(t, hostNamespace(1), "tcp", "127.0.0.1:18082")
		must(t, 1, "nsenter", "-t", pidOf(t, same), "-n", "sh", "-c",
			"ip route del local 127.0.0.0/8 table local; ip addr del 127.0.0.1/8 dev lo; ip route add 127.0.0.0/8 via "+gateway+"; sysctl -qw net.ipv4.conf.eth0.route_localnet=1")
		if _, err := askFrom(same.namespace(t), "tcp", "127.0.0.1:18082"); err == nil {
			t.Error("a container speaks to the host's 127.0.0.1 (CVE-2020-8558)")
		}
	})
}

// notAnswered asks from several namespaces at once.
func notAnswered(t testing.TB, to string, from ...string) {
	t.Helper()
	var all sync.WaitGroup
	for _, namespace := range from {
		all.Go(func() {
			if saw, err := askFrom(namespace, "tcp", to); err == nil {
				t.Errorf("%s is answered by %s, as %s", namespace, to, saw)
			}
		})
	}
	all.Wait()
}

// Promise: a port that is taken is refused in one sentence that says by whom, with
// Docker's exit code and Docker's remains; what is published keeps programs out.
// When Docker gives a start up half-way, the endpoint goes with it.
func TestPublishedPortConflicts(t *testing.T) {
	makeNetwork(t, 1, "pubtaken", "10.172.0.0/24")
	before := traces(t, 1)
	for _, p := range publishers() {
		t.Run(p.cmd, func(t *testing.T) {
			portConflicts(t, p)
			leavesNothing(t, 1, before)
		})
	}
}

// portConflicts is the test for a container that was started by p. Those that
// meet it are started in each way.
func portConflicts(t *testing.T, p publisher) {
	web := p.start(t, 1, "pubtaken", "pt-web", "-p", "18180:80")
	with := traces(t, 1)
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
		{"a program's", "18181:80", "program"},
		{"not an address of the host", "192.0.2.77:18182:80", "not an address of this host"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := p.run(t, "pubtaken", "pt-second", "-d", "-p", c.publish)
			// Docker's own client adds where its help is.
			if r.code != 125 || !strings.Contains(r.stderr, c.says) || p.cmd != "docker" && strings.Count(r.stderr, "\n") != 1 {
				t.Errorf("exit status %d, %q", r.code, r.stderr)
			}
			// As Docker does: it is there, and was never started.
			if state := strings.TrimSpace(must(t, 1, "docker", "inspect", "-f", "{{.State.Status}}", "pt-second")); state != "created" {
				t.Errorf("the container is %s", state)
			}
			if p.cmd == "docker" && c.name == "the same" { // `socketplane run` keeps the address as long as the container is there
				leavesNothing(t, 1, with, "container /pt-second")
			}
			must(t, 1, p.cmd, "rm", "-f", "pt-second")
			r = p.run(t, "pubtaken", "pt-second", "--rm", "-p", c.publish)
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
	leavesNothing(t, 1, with)
	t.Run("free while it is stopped", func(t *testing.T) {
		must(t, 1, p.cmd, "stop", "-t", "0", web.name)
		var l net.Listener
		eventually(t, "the port is free", func() (err error) {
			l, err = listenOn(":18180")
			return err
		})
		if r := try(t, 1, p.cmd, "start", web.name); r.code == 0 || !strings.Contains(r.stderr, "program") {
			t.Errorf("start: exit status %d, %q", r.code, r.stderr)
		}
		_ = l.Close()
		must(t, 1, p.cmd, "start", web.name)
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
	must(t, 1, p.cmd, "rm", "-f", web.name)
}
