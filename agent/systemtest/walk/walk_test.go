//go:build long

package walk

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/socketplane/socketplane/agent/systemtest/machine"
	"github.com/socketplane/socketplane/agent/systemtest/release"
)

const (
	moduleRoot = "../../.."
	gateway    = "10.254.101.1" // of the hosts' network; the releases are served there
	stepLimit  = 2 * time.Minute
)

var update = flag.Bool("update", false, "write what was really answered into the page")

// Promise: docs/walk-2015.md is what happens: on two machines that have nothing but
// their distribution's packages, each command of it does what it shows.
func TestWalk(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	yard, err := machine.Open(ctx, moduleRoot, "guest")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := yard.Close(context.Background()); err != nil {
			t.Errorf("the yard is not gone: %v", err)
		}
	})
	w := &walk{t: t, ctx: ctx, yard: yard, hosts: map[string]*machine.Machine{}}
	w.segment()
	w.boot("socketplane-1", "10.254.101.21")
	w.boot("socketplane-2", "10.254.101.22")

	var answers [][]string
	started := time.Now()
	for _, s := range steps(text) {
		answer := w.do(s)
		answers = append(answers, answer)
		if t.Failed() {
			break
		}
	}
	t.Logf("the walk: %.1f s", time.Since(started).Seconds())
	if *update && !t.Failed() {
		if err := os.WriteFile(page, rewrite(text, answers), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// walk is two hosts, and what is typed on them.
type walk struct {
	t     *testing.T
	ctx   context.Context
	yard  *machine.Yard
	ca    []byte
	hosts map[string]*machine.Machine
	token string // as it was last shown
}

// segment makes the hosts' network, and the place where releases are on it.
func (w *walk) segment() {
	w.t.Helper()
	for _, argv := range [][]string{
		{"docker", "network", "create", "--subnet", "10.254.101.0/24", "--gateway", gateway, "--opt", "com.docker.network.bridge.name=segment0", "segment"},
		// What the machines' switches read from the wire has to be whole.
		{"ethtool", "-K", "segment0", "tx", "off"},
	} {
		if out, err := w.yard.Command(w.ctx, argv...).CombinedOutput(); err != nil {
			w.t.Fatalf("%v: %v: %s", argv, err, out)
		}
	}
	server, err := release.New(moduleRoot)
	if err != nil {
		w.t.Fatal(err)
	}
	listener, err := w.yard.Listen(w.ctx, gateway+":443")
	if err != nil {
		w.t.Fatal(err)
	}
	stop := server.Serve(listener)
	w.t.Cleanup(func() { _ = stop() })
	w.ca = server.CA
}

// boot starts a machine as a server's installer leaves it.
func (w *walk) boot(name, address string) {
	w.t.Helper()
	m, err := w.yard.Create(w.ctx, name, "--network", "segment", "--ip", address, "--add-host", release.Host+":"+gateway)
	if err != nil {
		w.t.Fatal(err)
	}
	for path, text := range map[string]string{
		"/etc/ssl/certs/ca-certificates.crt": string(w.ca),
		"/etc/cloud/cloud-init.disabled":     "",
		// Where the kernel has no openvswitch.
		"/etc/systemd/system/multi-user.target.d/uplink.conf": "[Unit]\nWants=userspace-uplink@eth0.service\n",
	} {
		if err := m.Write(w.ctx, path, 0o644, []byte(text)); err != nil {
			w.t.Fatal(err)
		}
	}
	// Consul's release is not to be had here: it is on the PATH, as on a machine that has it.
	consul, err := exec.LookPath("consul")
	if err != nil {
		consul = filepath.Join(moduleRoot, "bin", "consul")
	}
	if consul, err = filepath.EvalSymlinks(consul); err == nil {
		err = m.Copy(w.ctx, consul, "/usr/local/bin/consul")
	}
	if err == nil {
		err = m.Boot(w.ctx)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	// There is no way to a registry either: the image that `run` would fetch.
	if _, err := m.Exec(w.ctx, "docker", "import", "--change", `CMD ["sh"]`, "/usr/local/share/images/busybox.tar", "busybox"); err != nil {
		w.t.Fatal(err)
	}
	w.hosts[name] = m
}

// colour is how a terminal's output is painted.
var colour = regexp.MustCompile("\x1b\\[[0-9;]*[A-Za-z]")

// do types a command and gives its answer, which is compared with the page's.
func (w *walk) do(s step) []string {
	w.t.Helper()
	host := w.hosts[s.host]
	if host == nil {
		w.t.Fatalf("page line %d: there is no host %s", s.line, s.host)
	}
	ctx, cancel := context.WithTimeout(w.ctx, stepLimit)
	defer cancel()
	// Who reads the page takes the token of the own cluster.
	command := token.ReplaceAllLiteralString(s.command, w.token)
	if s.follow {
		return w.follow(ctx, s)
	}
	out, err := host.Exec(ctx, "su", "-", "vagrant", "-c", "exec 2>&1\n"+command)
	w.t.Logf("%s$ %s\n%s", s.host, s.command, out)
	if err != nil {
		w.t.Errorf("page line %d: %s$ %s: %v", s.line, s.host, s.command, err)
		w.log(host)
	}
	if made := token.FindString(out); made != "" {
		w.token = made
	}
	var answer []string
	for l := range strings.Lines(out) {
		if l = strings.TrimRight(l, " \r\n"); l != "" {
			answer = append(answer, l)
		}
	}
	if !*update && !slices.EqualFunc(answer, s.shown, func(a, b string) bool { return plain(a) == plain(b) }) {
		w.t.Errorf("page line %d: %s$ %s\nthe page shows:\n%s\nit is:\n%s\n(make test-walk UPDATE=1 writes it into the page)",
			s.line, s.host, s.command, strings.Join(s.shown, "\n"), strings.Join(answer, "\n"))
	}
	return answer
}

// follow types a command that goes on until Ctrl-C, and types that when each line
// that the page shows has appeared, in order. It has a terminal, as for a person.
func (w *walk) follow(ctx context.Context, s step) []string {
	w.t.Helper()
	cmd := w.yard.Command(ctx, "script", "--quiet", "--flush", "--return", "--command",
		`docker exec -it "$HOST" su - vagrant -c "$TYPED"`, "/dev/null")
	cmd.Env = append(cmd.Env, "HOST="+s.host, "TYPED="+s.command, "SHELL=/bin/sh")
	keyboard, err := cmd.StdinPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	screen, err := cmd.StdoutPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	var answer, said []string
	lines := bufio.NewScanner(screen)
	for len(answer) < len(s.shown) && lines.Scan() {
		l := strings.TrimRight(colour.ReplaceAllString(lines.Text(), ""), "\r")
		said = append(said, l)
		if plain(l) == plain(s.shown[len(answer)]) {
			answer = append(answer, l)
		}
	}
	w.t.Logf("%s$ %s\n%s", s.host, s.command, strings.Join(said, "\n"))
	if len(answer) < len(s.shown) {
		w.t.Errorf("page line %d: %s$ %s: within %s it did not say: %s", s.line, s.host, s.command, stepLimit, s.shown[len(answer)])
	}
	_, err = io.WriteString(keyboard, "\x03")
	if err != nil {
		w.t.Error(err)
	}
	for lines.Scan() {
	}
	_ = cmd.Wait() // with the status of what was interrupted
	if ctx.Err() != nil {
		w.t.Errorf("page line %d: %s$ %s: Ctrl-C did not end it", s.line, s.host, s.command)
	}
	return answer
}

func (w *walk) log(host *machine.Machine) {
	out, err := host.Exec(w.ctx, "journalctl", "--no-pager", "--lines", "40")
	w.t.Log(fmt.Sprint(out, err))
}
