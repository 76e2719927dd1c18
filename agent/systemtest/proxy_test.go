package systemtest

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/socketplane/socketplane/agent/systemtest/lab"
)

// proxyMost is the most memory that a proxy may use, in KiB, however much goes
// through it or is refused.
const proxyMost = 100 << 10

// proxyProcess is a `socketplane proxy` on a host.
type proxyProcess struct {
	k      int
	listen string
	pid    string // as the host sees it
	ended  chan error
	log    *bytes.Buffer
}

// startProxy starts a proxy on host k and waits until Docker answers through it.
func startProxy(t testing.TB, k int, listen string) *proxyProcess {
	t.Helper()
	p := &proxyProcess{k: k, listen: listen, ended: make(chan error, 1), log: &bytes.Buffer{}}
	ctx, cancel := context.WithCancel(context.Background())
	kind, _, _ := strings.Cut(listen, ":")
	pidFile := "/run/proxy-of-test-" + kind + ".pid"
	cmd := cluster.Host(k).Command(ctx, "sh", "-c", `echo $$ > "$1"; exec socketplane proxy --listen "$2"`, "sh", pidFile, listen)
	cmd.Stderr = p.log
	if err := cmd.Start(); err != nil {
		cancel()
		t.Fatal(err)
	}
	go func() { p.ended <- cmd.Wait() }()
	t.Cleanup(func() {
		cancel()
		select {
		case <-p.ended:
		case <-time.After(eventualWait):
			t.Error("the proxy does not end")
		}
	})
	eventually(t, "the proxy answers", func() error {
		if r := p.docker(t, "version"); r.code != 0 {
			return errors.New(r.stderr)
		}
		return nil
	})
	p.pid = strings.TrimSpace(must(t, k, "cat", pidFile))
	return p
}

// docker is a docker command through the proxy.
func (p *proxyProcess) docker(t testing.TB, args ...string) result {
	t.Helper()
	return p.dockerInput(t, "", args...)
}

func (p *proxyProcess) dockerInput(t testing.TB, stdin string, args ...string) result {
	t.Helper()
	return tryInput(t, p.k, stdin, append([]string{"docker", "-H", p.listen}, args...)...)
}

// requestTo is what curl needs for a path of the proxy.
func requestTo(listen, path string) []string {
	if socket, ok := strings.CutPrefix(listen, "unix://"); ok {
		return []string{"--unix-socket", socket, "http://localhost" + path}
	}
	return []string{"http" + strings.TrimPrefix(listen, "tcp") + path}
}

// Promise: everything that Docker does, it does through the proxy: streams with
// both their ends, exit codes, files, builds.
func TestDockerThroughProxy(t *testing.T) {
	for _, listen := range []string{"tcp://127.0.0.1:2375", "unix:///run/proxy-of-test.sock"} {
		kind, _, _ := strings.Cut(listen, ":")
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			p, px := startProxy(t, 2, listen), "px-"+kind
			defer try(t, 2, "docker", "rm", "-f", px)
			base := []string{"run", "-i", "--rm", "--net", "none", lab.Image, "sh", "-c"}
			check := func(what string, got result, code int, stdout string) {
				t.Helper()
				if got.code != code || !strings.Contains(got.stdout, stdout) {
					t.Errorf("%s: status %d, %.300q, want %d and %q; stderr: %s", what, got.code, got.stdout, code, stdout, got.stderr)
				}
			}
			check("output after the end of stdin", p.dockerInput(t, "in\n", append(base, "cat; sleep 1; echo out; exit 42")...), 42, "in\nout\n")
			check("run -d", p.docker(t, "run", "-d", "--init", "--name", px, "--net", "none", lab.Image, "sh", "-c", "while :; do echo tick; sleep 0.1; done"), 0, "")
			check("exec -i", p.dockerInput(t, strings.Repeat("x", 1<<20), "exec", "-i", px, "sh", "-c", "wc -c; sleep 1; echo end; exit 7"), 7, "1048576\nend\n")
			check("exec -it", try(t, 2, "script", "-qec", "docker -H "+listen+" exec -it "+px+" tty", "/dev/null"), 0, "/dev/")
			check("logs -f", try(t, 2, "timeout", "5", "docker", "-H", listen, "logs", "-f", px), 124, "tick\ntick\n")
			check("attach", try(t, 2, "sh", "-c", "timeout -s KILL 5 docker -H "+listen+" attach --sig-proxy=false "+px+"; true"), 0, "tick\ntick\n")
			// The handshake's key and its answer are those of RFC 6455, section 1.3.
			check("a websocket", try(t, 2, append([]string{
				"sh", "-c", `curl -sSiN --max-time 5 -H Connection:Upgrade -H Upgrade:websocket -H Sec-WebSocket-Version:13 -H Sec-WebSocket-Key:dGhlIHNhbXBsZSBub25jZQ== "$@" |
				tr -d '\000\r' | grep -a -o -m 3 -e '101 Switching Protocols' -e 's3pPLMBiTxaQ9kYGzzhZRbK+xOo=' -e tick`, "sh",
			}, requestTo(listen, "/containers/"+px+"/attach/ws?stream=1&stdout=1")...)...), 0, "101 Switching Protocols\ns3pPLMBiTxaQ9kYGzzhZRbK+xOo=\ntick\n")
			check("cp out", try(t, 2, "sh", "-c", "docker -H "+listen+" cp "+px+":/bin/busybox - | tar t"), 0, "busybox")
			check("cp in", try(t, 2, "sh", "-c", "docker -H "+listen+" cp /etc/hostname "+px+":/copied && docker exec "+px+" cat /copied"), 0, "h2")
			check("a much larger output", try(t, 2, "sh", "-c", "docker -H "+listen+" exec "+px+" head -c 300000000 /dev/zero | wc -c"), 0, "300000000")
			check("build", try(t, 2, "sh", "-c", `d=$(mktemp -d) && printf 'FROM `+lab.Image+`\nCOPY f /f\nRUN cat /f > /g\n' > $d/Dockerfile && echo inside > $d/f &&
				DOCKER_BUILDKIT=0 docker -H `+listen+` build -q --network none -t `+px+`-built $d && docker -H `+listen+` run --rm --net none `+px+`-built cat /g; s=$?; docker rmi -f `+px+`-built; rm -r $d; exit $s`), 0, "inside")
			check("wait and events", try(t, 2, "sh", "-c", "docker -H "+listen+" events --since $(date +%s) --until $(($(date +%s) + 4)) --filter container="+px+" --filter event=die & docker -H "+listen+" rm -f "+px+"; wait"), 0, "container die")
			check("a failure", p.docker(t, "exec", px, "true"), 1, "")

			// Hundreds of megabytes went through: the proxy kept nothing of them.
			if kib := highest(t, 2, p.pid); kib > proxyMost {
				t.Errorf("the proxy has used %d KiB at its most", kib)
			}
			must(t, 2, "kill", "-TERM", p.pid)
			select {
			case err := <-p.ended:
				p.ended <- err
				if err != nil {
					t.Errorf("it ended with %v:\n%s", err, p.log)
				}
			case <-time.After(eventualWait):
				t.Error("it does not end")
			}
		})
	}
}

// Promise: SOCKETPLANE_CIDR makes its network on first use, and containers on two
// hosts that were created through the proxy reach each other on it, from the first
// instruction on; SP_NETWORK names one; in the end nothing is left.
func TestNetworkThroughProxy(t *testing.T) {
	makeNetwork(t, 1, "named", "10.64.0.0/24")
	p1, p2 := startProxy(t, 1, "tcp://127.0.0.1:2375"), startProxy(t, 2, "tcp://127.0.0.1:2375")
	before := []([]string){nil, traces(t, 1), traces(t, 2)}
	for _, tt := range []struct{ name, env, subnet string }{
		{"cidr", "SOCKETPLANE_CIDR=10.63.6.1/24", "10.63.6."}, {"name", "SP_NETWORK=named", "10.64.0."},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var ips [3]string
			for k, p := range []*proxyProcess{1: p1, 2: p2} {
				if p == nil {
					continue
				}
				defer try(t, k, "docker", "rm", "-f", "pn")
				for _, args := range [][]string{
					{"create", "--name", "pn", "--init", "-e", tt.env, lab.Image, "sh", "-c", "ip -4 addr show eth0; exec sleep 100000"}, {"start", "pn"},
				} {
					if r := p.docker(t, args...); r.code != 0 {
						t.Fatalf("h%d: %v: %s", k, args, r.stderr)
					}
				}
				eventually(t, "the first instruction has its network", func() error {
					if out := must(t, k, "docker", "logs", "pn"); !strings.Contains(out, "inet "+tt.subnet) {
						return errors.New(out)
					}
					return nil
				})
				ips[k] = strings.TrimSpace(must(t, k, "docker", "inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", "pn"))
			}
			for k := 1; k <= 2; k++ {
				c := container{host: k, name: "pn"}
				eventually(t, "reach the other", func() error { return c.pings(t, ips[3-k]) })
			}
			for k := 1; k <= 2; k++ {
				must(t, k, "docker", "rm", "-f", "pn")
			}
		})
	}
	// Docker may know a network by another name.
	must(t, 1, "docker", "network", "create", "-d", "socketplane", "--ipam-driver", "socketplane", "--subnet", "10.66.0.0/24", "-o", "socketplane.network=named-too", "mine")
	if out := p1.docker(t, "run", "--rm", "-e", "SP_NETWORK=named-too", lab.Image, "ip", "-4", "addr", "show", "eth0"); !strings.Contains(out.stdout, "inet 10.66.0.") {
		t.Errorf("on a network of another name: %d %s%s", out.code, out.stdout, out.stderr)
	}
	nobodyOn(t, "named-too")
	must(t, 1, "docker", "network", "rm", "mine")
	deleteNetwork(t, 1, "cidr-10.63.6.0-24")
	for k := 1; k <= 2; k++ {
		leavesNothing(t, k, before[k])
	}
}

// Promise: what cannot be is refused before Docker hears of it, with a sentence.
func TestProxyRefuses(t *testing.T) {
	makeNetwork(t, 3, "refused", "10.65.0.0/24")
	p := startProxy(t, 3, "tcp://127.0.0.1:2375")
	before := traces(t, 3)
	for _, tt := range []struct {
		name, says string
		args       []string
	}{
		{"unknown network", `"nope" does not exist`, []string{"-e", "SP_NETWORK=nope"}},
		{"a path", "SP_NETWORK", []string{"-e", "SP_NETWORK=../x"}},
		{"overlap", "overlaps", []string{"-e", "SOCKETPLANE_CIDR=10.65.0.1/16"}},
		{"no CIDR", "CIDR", []string{"-e", "SOCKETPLANE_CIDR=10.66.0.1"}},
		{"not agreeing", "do not agree", []string{"-e", "SOCKETPLANE_CIDR=10.66.0.1/24", "-e", "SP_NETWORK=refused"}},
		{"a mode of its own", `network mode "host"`, []string{"-e", "SOCKETPLANE_CIDR=10.66.0.1/24", "--net", "host"}},
	} {
		r := p.docker(t, append(append([]string{"create"}, tt.args...), lab.Image, "true")...)
		if r.code != 1 || !strings.Contains(r.stderr, "socketplane: ") || !strings.Contains(r.stderr, tt.says) {
			t.Errorf("%s: %d %q", tt.name, r.code, r.stderr)
		}
	}
	// A body that is too large ends at once, whatever is to follow.
	const post = "curl -sS -m 20 -w '%{http_code}' -X POST -H 'Content-Type: application/json' "
	for name, tt := range map[string]struct{ cmd, want string }{
		"10 GB":      {"head -c 10000000000 /dev/zero | " + post + "-H Transfer-Encoding:chunked -T - http://127.0.0.1:2375/containers/create || true", "413"},
		"a web page": {post + "-H 'Origin: http://example.com' -d '{}' http://127.0.0.1:2375/containers/create", "403"},
		"rebinding":  {post + "-H 'Host: example.com' -d '{}' http://127.0.0.1:2375/containers/create", "403"},
		"no JSON":    {post + "-d '{' http://127.0.0.1:2375/containers/create", "400"},
		"ping":       {"curl -sS http://127.0.0.1:2375/v1/ping", "pong"},
	} {
		if out := must(t, 3, "sh", "-c", tt.cmd); !strings.Contains(out, tt.want) {
			t.Errorf("%s: %s, want %s", name, out, tt.want)
		}
	}
	if kib := highest(t, 3, p.pid); kib > proxyMost {
		t.Errorf("the proxy has used %d KiB at its most", kib)
	}
	leavesNothing(t, 3, before)
	if r := try(t, 3, "socketplane", "proxy", "--listen", "tcp://0.0.0.0:2376"); r.code != 2 || !strings.Contains(r.stderr, "loopback") {
		t.Errorf("every address: %d %q", r.code, r.stderr)
	}
	if r := try(t, 3, "socketplane", "proxy"); r.code != 1 || !strings.Contains(r.stderr, "address already in use") {
		t.Errorf("a second one: %d %q", r.code, r.stderr)
	}
	select {
	case err := <-p.ended:
		p.ended <- err
		t.Errorf("the proxy has ended: %v\n%s", err, p.log)
	default:
	}
}
