package upgrade

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/socketplane/socketplane/agent/systemtest/lab"
)

const (
	moduleRoot = "../../.."
	// first is the release that people run: it refuses stored values with unknown
	// members, and names no capability.
	first = "e58e9f71db418f4c29a3aab2907c84dd628fdceb"

	commandTimeout = 100 * time.Second
	eventualWait   = 60 * time.Second
)

// host is one of the lab, with a program of its own.
type host struct {
	*lab.Host
	t *testing.T
}

// firstRelease builds the first release, unless that was done before.
func firstRelease(t *testing.T) string {
	t.Helper()
	out, err := exec.Command(filepath.Join(moduleRoot, "scripts", "build-commit.sh"), first).Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		t.Fatalf("the first release cannot be built: %s", exit.Stderr)
	}
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// hostsOfTheFirst makes a lab of n hosts that run the first release, joined in one
// cluster. Each has the program of the first release in /root/old and this one's in
// /root/new, as somebody copies them there.
func hostsOfTheFirst(t *testing.T, n int) []*host {
	t.Helper()
	old := firstRelease(t)
	now, err := filepath.Abs(filepath.Join(moduleRoot, "bin", "socketplane"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	up, err := lab.Up(ctx, lab.Options{Hosts: n, Bare: true, Out: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := up.Down(context.Background()); err != nil {
			t.Errorf("the lab does not go down: %v", err)
		}
	})
	var hosts []*host
	for _, h := range up.Hosts() {
		hosts = append(hosts, &host{Host: h, t: t})
	}
	for _, h := range hosts {
		h.outfit(old, now)
		h.must("socketplane", "agent", "start")
		h.awaitWell(0)
	}
	hosts[0].must("socketplane", "cluster", "bootstrap")
	token := hosts[0].must("socketplane", "cluster", "token")
	for _, h := range hosts[1:] {
		if r := h.try(token, "socketplane", "cluster", "join", "--token-file", "-", hosts[0].Addr.String()); r.code != 0 {
			t.Fatal(r.stderr)
		}
	}
	for _, h := range hosts {
		h.awaitWell(n - 1)
	}
	return hosts
}

// outfit gives the host directories of its own where the program is, which the lab's
// hosts otherwise share.
func (h *host) outfit(old, now string) {
	h.t.Helper()
	h.must("sh", "-euc", `
		mount -t tmpfs upgrade /root
		mkdir /root/sbin /root/bin /root/old /root/new
		cp -a /usr/local/sbin/. /root/sbin/
		rm -f /root/sbin/socketplane /root/sbin/socketplane-runc
		install -m 755 "$1" /root/old/socketplane
		install -m 755 "$2" /root/new/socketplane
		install -m 755 "$1" /root/bin/socketplane
		ln -s socketplane /root/bin/socketplane-runc
		mount --bind /root/sbin /usr/local/sbin
		mount --bind /root/bin /usr/local/bin
		printf '[host]\nname = "%s"\n' "$3" >/etc/socketplane/socketplane.toml
	`, "outfit", old, now, h.Name)
}

// result is what a command left behind.
type result struct {
	stdout, stderr string
	code           int
}

func (h *host) try(stdin string, argv ...string) result {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	cmd := h.Command(ctx, argv...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	cmd.WaitDelay = 2 * time.Second // an agent that was started may keep the pipes
	err := cmd.Run()
	r := result{stdout: stdout.String(), stderr: stderr.String()}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		r.code = exit.ExitCode()
	} else if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		h.t.Fatalf("%s: %q: %v", h.Name, argv, err)
	}
	return r
}

func (h *host) must(argv ...string) string {
	h.t.Helper()
	r := h.try("", argv...)
	if r.code != 0 {
		h.t.Fatalf("%s: %q: exit status %d\n%s%s", h.Name, argv, r.code, r.stdout, r.stderr)
	}
	return r.stdout
}

func (h *host) sp(args ...string) string {
	h.t.Helper()
	return h.must(append([]string{"socketplane"}, args...)...)
}

// awaitWell waits until the agent is ready, has tunnels to that many living peers, and
// names no problem.
func (h *host) awaitWell(peers int) {
	h.t.Helper()
	eventually(h.t, h.Name+" is well", func() error {
		r := h.try("", "socketplane", "agent", "status", "-o", "json")
		var s struct {
			Ready    bool
			Problems []string
			Peers    []struct{ State, Tunnel string }
		}
		if err := json.Unmarshal([]byte(r.stdout), &s); err != nil {
			return errors.New(r.stderr)
		}
		living := 0
		for _, p := range s.Peers {
			if p.State == "alive" && p.Tunnel != "" {
				living++
			}
		}
		if !s.Ready || len(s.Problems) > 0 || living != peers || len(s.Peers) != peers {
			return errors.New(r.stdout)
		}
		return nil
	})
}

// awaitQuiet waits until the switch has the ports of the lasting container only: the
// gateways of networks that were deleted linger a moment.
func (h *host) awaitQuiet() {
	h.t.Helper()
	eventually(h.t, h.Name+" is quiet", func() error {
		for kind, want := range map[string]int{"gateway": 1, "endpoint": 1} {
			ports := strings.Fields(h.must("ovs-vsctl", "-t", "5", "--bare", "--columns=name", "find", "Port", "external_ids:socketplane_kind="+kind))
			if len(ports) != want {
				return fmt.Errorf("%s ports: %q", kind, ports)
			}
		}
		return nil
	})
}

// readsAll says that the host's agent left no stored value alone since its log began.
func (h *host) readsAll() {
	h.t.Helper()
	log, err := os.ReadFile(filepath.Join(h.Dir(), "log", "socketplane.log"))
	if err != nil {
		h.t.Fatal(err)
	}
	for l := range strings.Lines(string(log)) {
		for _, bad := range []string{"cannot be decoded", "left alone", "unknown field", "somebody else wrote"} {
			if strings.Contains(l, bad) {
				h.t.Errorf("%s logged: %s", h.Name, l)
			}
		}
	}
}

func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	deadline := time.Now().Add(eventualWait)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not after %s: %v", what, eventualWait, err)
		}
		<-tick.C
	}
}

// container runs for the whole test.
type container struct {
	host     *host
	name, ip string
}

func (h *host) run(network, name string) container {
	h.t.Helper()
	h.sp("run", "-n", network, "-d", "--init", "--name", name, lab.Image, "sleep", "100000")
	return container{host: h, name: name, ip: h.ip(name)}
}

func (h *host) ip(ref string) string {
	h.t.Helper()
	var e struct{ IP string }
	if err := json.Unmarshal([]byte(h.sp("info", ref, "-o", "json")), &e); err != nil {
		h.t.Fatal(err)
	}
	return e.IP
}

// namespace is the container's, as this process reaches it.
func (c container) namespace() string {
	c.host.t.Helper()
	pid := strings.TrimSpace(c.host.must("docker", "inspect", "-f", "{{.State.Pid}}", c.name))
	init := c.host.Pid()
	return fmt.Sprintf("/proc/%d/root/proc/%s/ns/net", init, pid)
}

func (c container) reaches(ip string) {
	c.host.t.Helper()
	eventually(c.host.t, fmt.Sprintf("%s on %s reaches %s", c.name, c.host.Name, ip), func() error {
		if r := c.host.try("", "docker", "exec", c.name, "ping", "-c", "1", "-W", "1", ip); r.code != 0 {
			return errors.New(r.stdout + r.stderr)
		}
		return nil
	})
}
