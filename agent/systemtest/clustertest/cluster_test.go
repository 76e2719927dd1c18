package clustertest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	addr1, addr2, addr3, addr4, addr5 = "198.18.0.1", "198.18.0.2", "198.18.0.3", "198.18.0.4", "198.18.0.5"

	consulPID = "/var/lib/socketplane/consul/consul.pid"
	agentPID  = "/run/socketplane/agent.pid"
)

// The life of a cluster, from one host alone to five and back to one.
func TestCluster(t *testing.T) {
	wire := listen(t)
	var token string
	var a, b end
	var ends []end // that stay
	all := []int{1, 2, 3, 4}
	step := func(name string, f func(t *testing.T)) {
		t.Helper()
		if !t.Run(name, f) {
			t.FailNow() // what follows stands on it
		}
	}

	step("a host alone bootstraps and keeps what it has", func(t *testing.T) {
		begin(t, 1, "")
		sp(t, 1, "network", "create", "early", "10.151.0.0/24")
		a = connect(t, 1, "early", "a")
		b := connect(t, 1, "early", "b")
		before := sp(t, 1, "network", "list", "-o", "json") + sp(t, 1, "info", "-o", "json")
		pings := startPings(t, a, b.ip)
		sp(t, 1, "cluster", "bootstrap")
		pings.lostNothing(t)
		if after := sp(t, 1, "network", "list", "-o", "json") + sp(t, 1, "info", "-o", "json"); after != before {
			t.Errorf("before\n%s\nafter\n%s", before, after)
		}
		if again := sp(t, 1, "cluster", "bootstrap"); !strings.Contains(again, "already") {
			t.Error(again)
		}
		token = sp(t, 1, "cluster", "token")
		b.disconnect(t)
		if c := connect(t, 1, "early", "c"); c.ip == a.ip {
			t.Errorf("%s twice", c.ip)
		} else {
			c.disconnect(t)
		}
	})

	step("an agent that cannot tell its interface waits to be told", func(t *testing.T) {
		must(t, 5, "ovs-vsctl", "-t", "10", "add-br", "ul1", "--", "set", "bridge", "ul1", "datapath_type=netdev")
		must(t, 5, "ip", "address", "add", "192.0.2.5/24", "dev", "ul1")
		must(t, 5, "ip", "link", "set", "ul1", "up")
		must(t, 5, "ip", "route", "del", "default")
		startAs(t, 5, "h1", "") // as another host is called
		s, err := statusOf(t, 5)
		if err != nil || s.Ready || len(s.Problems) != 1 || !strings.Contains(s.Problems[0], "br-phy (198.18.0.5)") ||
			!strings.Contains(s.Problems[0], "ul1 (192.0.2.5)") || !strings.Contains(s.Problems[0], "cluster bind") {
			t.Errorf("%+v, %v", s, err)
		}
		refused(t, try(t, 5, "", "socketplane", "network", "list"), "waits", "cluster bind")
		refused(t, try(t, 5, "", "socketplane", "cluster", "bootstrap"), "cluster bind")
		sp(t, 5, "cluster", "bind", "br-phy")
		awaitReady(t, 5)
		if n := strings.Count(must(t, 5, "cat", "/var/log/socketplane.log"), "carries the tunnels; waiting"); n != 1 {
			t.Errorf("the log says it %d times", n)
		}
	})

	step("a wrong token is refused and leaves nothing", func(t *testing.T) {
		begin(t, 2, "")
		before := must(t, 2, "ls", "-A", "/var/lib/socketplane")
		wrong := must(t, 2, "socketplane", "cluster", "token", "--new")
		began := time.Now()
		refused(t, join(t, 2, wrong, addr1), addr1, "token")
		refused(t, join(t, 2, "sp1-nonsense", addr1), "standard input", "token")
		refused(t, join(t, 2, strings.ToLower(token), addr1), "token")
		refused(t, try(t, 2, "", "socketplane", "cluster", "join", addr1), "token")
		refused(t, join(t, 2, token, addr4), addr4, "no cluster answers")
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("that took %s", took)
		}
		if after := must(t, 2, "ls", "-A", "/var/lib/socketplane"); after != before {
			t.Errorf("before %q after %q", before, after)
		}
		awaitReady(t, 2)
	})

	step("a state of its own stands in the way", func(t *testing.T) {
		sp(t, 2, "network", "create", "mine", "10.152.0.0/24")
		refused(t, join(t, 2, token, addr1), `network "mine"`)
		e := connect(t, 2, "default", "d")
		refused(t, join(t, 2, token, addr1), `endpoints on network "default"`)
		e.disconnect(t)
		sp(t, 2, "network", "delete", "mine")
	})

	step("two hosts join, and a network of one is that of all", func(t *testing.T) {
		for k, addrs := range map[int][]string{2: {addr1}, 3: {addr5, addr1}} {
			if k == 3 {
				begin(t, 3, "")
			}
			if r := join(t, k, token, addrs...); r.code != 0 {
				t.Fatal(r.stderr)
			}
		}
		awaitPeers(t, 1, addr2, addr3)
		awaitPeers(t, 3, addr1, addr2)
		sp(t, 2, "network", "create", "web", "10.153.0.0/24")
		b = connect(t, 3, "web", "b3")
		w := connect(t, 1, "web", "w1")
		e := connect(t, 2, "early", "e2")
		eventually(t, eventualWait, "h1 reaches h3", func() error { return w.pings(t, b.ip) })
		eventually(t, eventualWait, "h2 reaches what was on h1 before", func() error { return e.pings(t, a.ip) })
		w.disconnect(t)
		e.disconnect(t)
		ends = []end{a, b, connect(t, 2, "web", "c2")}
		awaitWhole(t, ends, 1, 2, 3)
	})

	step("three hosts have three servers, a fourth is a client", func(t *testing.T) {
		awaitServers(t, 1, 3, 3)
		begin(t, 4, "")
		if r := join(t, 4, token, addr2); r.code != 0 {
			t.Fatal(r.stderr)
		}
		awaitServers(t, 4, 4, 3)
		awaitWhole(t, ends, all...)
	})

	step("Consul is killed and comes again", func(t *testing.T) {
		for _, k := range []int{2, leaderOf(t)} {
			before := strings.TrimSpace(must(t, k, "cat", consulPID))
			must(t, k, "kill", "-9", before)
			eventually(t, eventualWait, "it makes a network again", func() error { return makes(t, k, "back") })
			if now := strings.TrimSpace(must(t, k, "cat", consulPID)); now == before {
				t.Error("it is the same process")
			}
			awaitWhole(t, ends, all...)
		}
	})

	step("the agent is killed and its Consul goes on", func(t *testing.T) {
		before := must(t, 3, "cat", consulPID)
		must(t, 3, "kill", "-9", strings.TrimSpace(must(t, 3, "cat", agentPID)))
		sp(t, 3, "agent", "start")
		awaitReady(t, 3)
		if now := must(t, 3, "cat", consulPID); now != before {
			t.Errorf("pid %s, before it was %s", now, before)
		}
		sp(t, 3, "agent", "restart")
		awaitReady(t, 3)
		if err := makes(t, 3, "back"); err != nil {
			t.Error(err)
		}
		if r := try(t, 3, "", "pgrep", "-c", "-x", "consul"); strings.TrimSpace(r.stdout) != "1" {
			t.Errorf("%s Consuls run", r.stdout)
		}
		awaitWhole(t, ends, all...)
	})

	step("the leader's host is cut off, and is back", func(t *testing.T) {
		partition(t, leaderOf(t), 0, ends, all...)
	})

	step("a server's host loses its power, then the leader's", func(t *testing.T) {
		for _, k := range []int{leaderOf(t)%3 + 1, 0} {
			if k == 0 {
				k = leaderOf(t)
			}
			name := fmt.Sprintf("after-h%d", k)
			powerCycle(t, k, name)
			for i, e := range ends {
				if e.host == k { // its namespace is gone
					try(t, k, "", "socketplane", "disconnect", e.name) // the agent may have seen that
					ends[i] = connect(t, k, e.network, e.name)
				}
			}
			awaitServers(t, k, 4, 3)
			if out := sp(t, k, "network", "list"); !strings.Contains(out, name) {
				t.Error(out)
			}
			awaitWhole(t, ends, all...)
		}
	})

	step("a host moves to another interface", func(t *testing.T) {
		// The userspace datapath takes tunnels from the bridge that has the address.
		must(t, 4, "ovs-vsctl", "-t", "10", "add-br", "ul1", "--", "set", "bridge", "ul1", "datapath_type=netdev",
			"--", "add-port", "ul1", "to-phy", "--", "set", "interface", "to-phy", "type=patch", "options:peer=to-ul1",
			"--", "add-port", "br-phy", "to-ul1", "--", "set", "interface", "to-ul1", "type=patch", "options:peer=to-phy")
		must(t, 4, "ip", "address", "add", "198.18.0.104/24", "dev", "ul1")
		must(t, 4, "ip", "link", "set", "ul1", "up")
		// One segment, two interfaces: each answers for its own address, and what
		// goes out goes by the new one.
		must(t, 4, "sysctl", "-qw", "net.ipv4.conf.all.arp_ignore=1", "net.ipv4.conf.all.arp_announce=2")
		route := func(dev, src string) {
			must(t, 4, "ip", "route", "flush", "198.18.0.0/24", "table", "main")
			must(t, 4, "ip", "route", "add", "198.18.0.0/24", "dev", dev, "src", src)
		}
		sp(t, 2, "network", "create", "moves", "10.154.0.0/24")
		there, here := connect(t, 4, "moves", "m4"), connect(t, 2, "moves", "m2")
		eventually(t, eventualWait, "reach it before", func() error { return here.pings(t, there.ip) })
		refused(t, try(t, 4, "", "socketplane", "cluster", "bind", "nothere"), "nothere")
		route("ul1", "198.18.0.104")
		sp(t, 4, "cluster", "bind", "ul1")
		awaitPeersIn(t, followWait, 2, addr1, addr3, "198.18.0.104")
		eventually(t, eventualWait, "reach it after", func() error { return here.pings(t, there.ip) })
		route("br-phy", addr4)
		must(t, 4, "ip", "route", "replace", "default", "via", "198.18.0.254", "dev", "br-phy")
		sp(t, 4, "cluster", "bind", "--default")
		awaitPeersIn(t, followWait, 2, addr1, addr3, addr4)
		eventually(t, eventualWait, "reach it again", func() error { return here.pings(t, there.ip) })
		there.disconnect(t)
		here.disconnect(t)
		awaitServers(t, 2, 4, 3)
		awaitWhole(t, ends, all...)
	})

	step("two clusters with one token stay two", func(t *testing.T) {
		if r := try(t, 5, token, "socketplane", "cluster", "bootstrap", "--token-file", "-"); r.code != 0 {
			t.Fatal(r.stderr)
		}
		refused(t, join(t, 5, token, addr1), "already")
		// By hand, behind our back.
		if r := consul(t, 5, "join", addr1); r.code == 0 || !strings.Contains(r.stderr, "wrong datacenter") {
			t.Errorf("exit status %d: %s", r.code, r.stdout+r.stderr)
		}
		awaitServers(t, 5, 1, 1)
		awaitServers(t, 1, 4, 3)
		sp(t, 5, "cluster", "leave")
		if left := must(t, 5, "ls", "/var/lib/socketplane"); strings.Contains(left, "token") || strings.Contains(left, "consul") {
			t.Errorf("left behind: %s", left)
		}
		if r := join(t, 5, token, addr3); r.code != 0 {
			t.Fatal(r.stderr)
		}
		awaitServers(t, 5, 5, 3)
		awaitWhole(t, ends, 1, 2, 3, 4, 5)
	})

	step("two hosts of one name are two hosts", func(t *testing.T) {
		for _, k := range []int{1, 5} {
			s, err := statusOf(t, k)
			if err != nil {
				t.Fatal(err)
			}
			shown := "h1 (" + s.Host.ID[:8] + ")"
			if out := sp(t, 2, "cluster", "members"); !strings.Contains(out, shown+" ") {
				t.Errorf("no %s among the members\n%s", shown, out)
			}
			if out := sp(t, 2, "agent", "status"); !strings.Contains(out, shown+" ") {
				t.Errorf("no %s among the peers\n%s", shown, out)
			}
		}
		one, other := connect(t, 1, "web", "n1"), connect(t, 5, "web", "n5")
		awaitWhole(t, append(slices.Clone(ends), one, other), 1, 2, 3, 4, 5) // all reach each other
		one.disconnect(t)
		other.disconnect(t)
	})

	step("hosts leave one right after the other, down to one", func(t *testing.T) {
		r := try(t, 3, "", "socketplane", "cluster", "leave")
		refused(t, r, "b3", "web", "--force")
		sp(t, 3, "cluster", "leave", "--force")
		awaitNoTunnel(t, addr3, 1, 2, 4, 5)
		if out := sp(t, 3, "network", "list"); strings.Contains(out, "web") {
			t.Error(out)
		}
		ends = []end{ends[0], ends[2]}
		awaitWhole(t, ends, 1, 2, 4, 5)
		sp(t, 5, "cluster", "leave")
		sp(t, 4, "cluster", "leave")
		awaitServers(t, 2, 2, 1)
		sp(t, 1, "cluster", "leave", "--force")
		awaitServers(t, 2, 1, 1)
		if err := makes(t, 2, "last"); err != nil {
			t.Error(err)
		}
		awaitWhole(t, ends[1:], 2)
		ends[1].disconnect(t)
		sp(t, 2, "network", "delete", "web")
	})

	step("nobody could hear the token or the gossip", func(t *testing.T) {
		wire.tellsNoSecret(t, strings.TrimSpace(token))
		for k := 1; k <= 5; k++ {
			diskTellsNoSecret(t, k, strings.TrimSpace(token))
		}
	})
}

// makes says whether host k can make a network, and takes it away again unless its
// name begins with "after".
func makes(t testing.TB, k int, name string) error {
	t.Helper()
	r := try(t, k, "", "socketplane", "network", "create", name)
	if r.code != 0 {
		return errors.New(r.stderr)
	}
	if strings.HasPrefix(name, "after") {
		return nil
	}
	if r := try(t, k, "", "socketplane", "network", "delete", name); r.code != 0 {
		return errors.New(r.stderr)
	}
	return nil
}

// powerCycle turns host k off, has another make a network meanwhile, and turns it on.
func powerCycle(t testing.TB, k int, network string) {
	t.Helper()
	other := k%3 + 1
	if err := hosts.Host(k).PowerOff(t.Context()); err != nil {
		t.Fatal(err)
	}
	off := time.Now()
	eventually(t, time.Minute, "the others go on", func() error { return makes(t, other, network) })
	t.Logf("h%d made a network %s after h%d was off", other, time.Since(off).Round(time.Millisecond), k)
	powerOn(t, k)
	sp(t, k, "agent", "start")
	awaitReady(t, k)
}

// powerOn boots host k, without its agent.
func powerOn(t testing.TB, k int) {
	t.Helper()
	if err := hosts.Host(k).Boot(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, service := range []string{"ovsdb-server", "ovs-vswitchd"} {
		if err := hosts.Host(k).Service(t.Context(), "start", service); err != nil {
			t.Fatal(err)
		}
	}
}

// leaderOf is the number of the host that leads the cluster.
func leaderOf(t testing.TB) int {
	t.Helper()
	var leader string
	if err := askConsul(1, "status/leader", &leader); err != nil {
		t.Fatal(err)
	}
	for k, addr := range map[int]string{1: addr1, 2: addr2, 3: addr3, 4: addr4, 5: addr5} {
		if strings.HasPrefix(leader, addr+":") {
			return k
		}
	}
	t.Fatalf("no leader: %s", leader)
	return 0
}

// diskTellsNoSecret looks for the token in all that a host logged, and in the
// arguments of its processes.
func diskTellsNoSecret(t testing.TB, k int, token string) {
	t.Helper()
	dir := hosts.Host(k).Dir()
	err := filepath.Walk(filepath.Join(dir, "log"), func(path string, info os.FileInfo, err error) error {
		if err != nil || !info.Mode().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(data), token) {
			err = fmt.Errorf("%s holds the token", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	for _, what := range []string{"cmdline", "environ"} {
		if out := must(t, k, "sh", "-c", "cat /proc/[0-9]*/"+what); strings.Contains(out, token) {
			t.Errorf("h%d: the token is in the %s of a process", k, what)
		}
	}
}
