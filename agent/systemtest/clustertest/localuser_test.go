package clustertest

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// nobody runs a command on host k as a user who has nothing to do with us.
func nobody(t testing.TB, k int, argv ...string) result {
	t.Helper()
	return try(t, k, "", append([]string{"setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--"}, argv...)...)
}

// curl's exit statuses, curl(1).
const curlNoConnection = 7

// listener is a socket that others can send to, on TCP or UDP.
type listener struct{ protocol, address, program string }

// listenersOf are those of host k.
func listenersOf(t testing.TB, k int) []listener {
	t.Helper()
	var all []listener
	for line := range strings.Lines(must(t, k, "ss", "-Hlntup")) {
		f := strings.Fields(line) // protocol, state, two queues, local, peer, users:(("consul",pid=1,fd=2))
		if len(f) < 7 {
			t.Fatalf("h%d: whose listener is that: %s", k, line)
		}
		l := listener{protocol: f[0], address: f[4]}
		if _, rest, ok := strings.Cut(f[6], `(("`); ok {
			l.program, _, _ = strings.Cut(rest, `"`)
		}
		if !slices.Contains(all, l) {
			all = append(all, l)
		}
	}
	return all
}

// Promise: on a host whose Consul we run, no other user than root, and no web page
// in a browser there, reaches Consul, its configuration or the token. Root does, with
// what `agent status` prints. Nothing listens but what the cluster needs.
func TestLocalUser(t *testing.T) {
	const n = 4
	form(t, n)
	all, err := members(t, 1)
	if err != nil {
		t.Fatal(err)
	}
	client := 1 + slices.IndexFunc(all, func(m member) bool { return m.Role == "client" }) // h1 is the first
	if client == 0 || all[client-1].Name != fmt.Sprintf("h%d", client) {
		t.Fatalf("which host is the client: %+v", all)
	}

	t.Run("what status prints serves root", func(t *testing.T) {
		_, rest, _ := strings.Cut(sp(t, 1, "agent", "status"), "CONSUL_HTTP_ADDR=") // the whole rest of the line
		addr, _, _ := strings.Cut(rest, "\n")
		if want := "unix://" + consulSocket; addr != want {
			t.Errorf("`agent status` says %q, want %q", addr, want)
		}
		r := try(t, 1, "", "env", "CONSUL_HTTP_ADDR="+addr, "consul", "members")
		for k := 1; k <= n; k++ {
			if r.code != 0 || !strings.Contains(r.stdout, hosts.Host(k).Addr.String()+":8301") {
				t.Errorf("exit status %d, no h%d in\n%s%s", r.code, k, r.stdout, r.stderr)
			}
		}
		var s struct{ Store string }
		decode(t, sp(t, 1, "agent", "status", "-o", "json"), &s)
		if s.Store != "consul unix://"+consulSocket {
			t.Errorf("the store is %q", s.Store)
		}
		if r := try(t, 1, "", "curl", "-sS", "-m", "10", "--unix-socket", strings.TrimPrefix(addr, "unix://"), "http://consul/v1/status/leader"); r.code != 0 {
			t.Errorf("curl: exit status %d: %s", r.code, r.stderr)
		}
	})

	t.Run("a local user and a web page find no port", func(t *testing.T) {
		for _, k := range []int{1, client} {
			for _, request := range [][]string{
				// As a browser sends it without asking first.
				{"-X", "POST", "-H", "Content-Type: text/plain", "-H", "Origin: https://evil.example", "-d", `{"Key":"pUqJrVyVRj5jsiYEkM/tFQYfWyJIv4s3XkvDwy7Cu5s="}`, "http://127.0.0.1:8500/v1/operator/keyring"},
				// As one does after DNS rebinding.
				{"-H", "Host: evil.example:8500", "http://127.0.0.1:8500/v1/kv/?keys"},
				{"-X", "DELETE", "http://127.0.0.1:8500/v1/kv/socketplane-test?recurse"},
				{"http://[::1]:8500/v1/status/leader"},
				{"http://" + hosts.Host(k).Addr.String() + ":8500/v1/status/leader"},
			} {
				if r := nobody(t, k, append([]string{"curl", "-sS", "-m", "10"}, request...)...); r.code != curlNoConnection {
					t.Errorf("h%d: %q: exit status %d: %s%s", k, request, r.code, r.stdout, r.stderr)
				}
			}
		}
	})

	t.Run("a local user does not reach the socket or a file", func(t *testing.T) {
		const state = "/var/lib/socketplane"
		for _, k := range []int{1, client} {
			for _, path := range []string{consulSocket, state + "/consul/consul.json", state + "/consul/data", state + "/cluster.token", state + "/cluster.json"} {
				must(t, k, "stat", path) // else what follows proves nothing
				if r := nobody(t, k, "stat", path); r.code == 0 || !strings.Contains(r.stderr, "Permission denied") {
					t.Errorf("h%d: stat %s: exit status %d: %s%s", k, path, r.code, r.stdout, r.stderr)
				}
			}
			for _, dir := range []string{state, state + "/consul"} {
				if r := nobody(t, k, "ls", "-a", dir); r.code == 0 || !strings.Contains(r.stderr, "Permission denied") {
					t.Errorf("h%d: ls %s: exit status %d: %s%s", k, dir, r.code, r.stdout, r.stderr)
				}
			}
			if r := nobody(t, k, "curl", "-sS", "-m", "10", "--unix-socket", consulSocket, "http://consul/v1/status/leader"); r.code != curlNoConnection {
				t.Errorf("h%d: curl: exit status %d: %s%s", k, r.code, r.stdout, r.stderr)
			}
			if r := nobody(t, k, "env", "CONSUL_HTTP_ADDR=unix://"+consulSocket, "consul", "members"); r.code == 0 {
				t.Errorf("h%d: consul members as user 65534:\n%s", k, r.stdout)
			}
			if mode := strings.TrimSpace(must(t, k, "stat", "-c", "%A %u %g", consulSocket)); mode != "srw------- 0 0" {
				t.Errorf("h%d: the socket is %s", k, mode)
			}
			if mode := strings.TrimSpace(must(t, k, "stat", "-c", "%A %u %g", filepath.Dir(consulSocket))); mode != "drwx------ 0 0" {
				t.Errorf("h%d: its directory is %s", k, mode)
			}
		}
	})

	t.Run("nothing else listens", func(t *testing.T) {
		for k := 1; k <= n; k++ {
			addr := hosts.Host(k).Addr.String()
			want := []listener{{"tcp", addr + ":8301", "consul"}, {"udp", addr + ":8301", "consul"}}
			if k != client {
				want = append(want, listener{"tcp", addr + ":8300", "consul"})
			}
			have := slices.DeleteFunc(listenersOf(t, k), func(l listener) bool {
				// mDNS: the agent says on the segment that it is in a cluster.
				return l.protocol == "udp" && l.program == "socketplane" && strings.HasSuffix(l.address, ":5353")
			})
			for _, l := range have {
				if !slices.Contains(want, l) {
					t.Errorf("h%d: %+v", k, l)
				}
			}
			for _, l := range want {
				if !slices.Contains(have, l) {
					t.Errorf("h%d: no %+v among %+v", k, l, have)
				}
			}
		}
	})

	t.Run("what an older agent's Consul opened is closed", func(t *testing.T) {
		k := client // a server's restart is no different, and costs an election
		sp(t, 1, "network", "create", "upgraded", "10.159.0.0/24")
		a, b := connect(t, 1, "upgraded", "a"), connect(t, k, "upgraded", "b")
		eventually(t, eventualWait, "a reaches b", func() error { return a.pings(t, b.ip) })
		probes := startPings(t, a, b.ip)
		older(t, k)
		if r := nobody(t, k, "curl", "-sS", "-m", "10", "http://127.0.0.1:8500/v1/agent/self"); r.code != 0 {
			t.Fatalf("the older Consul is not as it was: %s", r.stderr)
		}
		sp(t, k, "agent", "start")
		awaitReady(t, k)
		if r := nobody(t, k, "curl", "-sS", "-m", "10", "http://127.0.0.1:8500/v1/agent/self"); r.code != curlNoConnection {
			t.Errorf("exit status %d: %s", r.code, r.stdout)
		}
		awaitServers(t, 1, n, 3)
		ends := []end{a, b}
		awaitWhole(t, ends, 1, 2, 3, 4)
		if out := mustConsul(t, k, "members"); strings.Count(out, " alive ") != n {
			t.Error(out)
		}
		probes.lostNothing(t)
		for _, e := range ends {
			e.disconnect(t)
		}
	})

	t.Run("a host that leaves keeps none of it", func(t *testing.T) {
		sp(t, client, "cluster", "leave")
		if r := try(t, client, "", "ls", "/var/lib/socketplane/consul"); r.code == 0 {
			t.Errorf("left behind: %s", r.stdout)
		}
		if have := listenersOf(t, client); slices.ContainsFunc(have, func(l listener) bool { return l.program == "consul" }) {
			t.Errorf("%+v", have)
		}
	})
}

// older kills host k's agent, and leaves a Consul running as an agent that kept its
// HTTP API on loopback would have.
func older(t testing.TB, k int) {
	t.Helper()
	const dir = "/var/lib/socketplane/consul"
	file := filepath.Join(hosts.Host(k).Dir(), "lib", "socketplane", "consul", "consul.json")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	must(t, k, "kill", "-9", strings.TrimSpace(must(t, k, "cat", agentPID)))
	pid := strings.TrimSpace(must(t, k, "cat", consulPID))
	must(t, k, "kill", pid)
	eventually(t, eventualWait, "its Consul has ended", func() error {
		if r := try(t, k, "", "kill", "-0", pid); r.code == 0 {
			return errors.New("it runs")
		}
		return nil
	})
	var c map[string]any
	decode(t, string(data), &c)
	for _, field := range []string{"addresses", "unix_sockets", "http_config", "enable_local_script_checks", "discard_check_output", "enable_debug"} {
		delete(c, field)
	}
	c["client_addr"] = "127.0.0.1"
	if data, err = json.MarshalIndent(c, "", "  "); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("setsid consul agent -config-file=%[1]s/consul.json >>%[1]s/consul.log 2>&1 </dev/null & echo $! >%[2]s", dir, consulPID)
	must(t, k, "sh", "-c", script)
	eventually(t, eventualWait, "the older Consul answers", func() error {
		if r := try(t, k, "", "curl", "-sS", "-m", "10", "http://127.0.0.1:8500/v1/status/leader"); r.code != 0 || !strings.Contains(r.stdout, ":8300") {
			return errors.New(r.stdout + r.stderr)
		}
		return nil
	})
}
