//go:build long

package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/socketplane/socketplane/agent/systemtest/machine"
	"github.com/socketplane/socketplane/agent/systemtest/release"
)

const (
	moduleRoot = "../../.."
	examples   = moduleRoot + "/examples/cloud-init/"

	gateway     = "10.0.0.1" // of the tenant's network; the releases are served there
	first       = "10.0.0.11"
	underlayMTU = 1450 // a cloud's network is a tunnel itself
)

// site is a cloud for one test: a network in a namespace of its own, what the VMs
// boot, and what they find in the internet. All of it is in processes that end with
// the test, and a directory.
type site struct {
	t      *testing.T
	ctx    context.Context
	holder *exec.Cmd // the namespace is there as long as it is
	dir    string    // configuration drives, consoles, the key
	image  string    // disk.img, vmlinuz, initrd.img
	token  string
	ca     []byte
	nodes  []*node
}

func newSite(t *testing.T, ctx context.Context) *site { //nolint:revive // t comes first in tests
	t.Helper()
	s := &site{t: t, ctx: ctx, dir: t.TempDir()}
	s.image = filepath.Join(moduleRoot, s.here("scripts/vm/disk.sh"))
	s.token = s.here("bin/socketplane", "cluster", "token", "--new")
	s.network()
	server, err := release.New(moduleRoot)
	if err != nil {
		t.Fatal(err)
	}
	s.ca = server.CA
	listener, err := machine.ListenBeside(ctx, s.holder.Process.Pid, gateway+":443")
	if err != nil {
		t.Fatal(err)
	}
	stop := server.Serve(listener)
	t.Cleanup(func() { _ = stop() })
	if _, err := run(exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", s.dir+"/key")); err != nil {
		t.Fatal(err)
	}
	return s
}

// network makes the namespace, and in it the tenant's network.
func (s *site) network() {
	s.t.Helper()
	s.holder = exec.Command("unshare", "--net", "sleep", "infinity")
	s.holder.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if err := s.holder.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		_ = s.holder.Process.Kill()
		_ = s.holder.Wait() // it was killed
	})
	s.until(10*time.Second, "a network namespace", func() error {
		ours, err := os.Readlink("/proc/self/ns/net")
		if err != nil {
			return err
		}
		if its, err := os.Readlink(s.namespace()); err != nil || its == ours {
			return errors.Join(errors.New("it is in ours"), err)
		}
		return nil
	})
	for _, line := range []string{
		"ip link set lo up",
		"ip link add cloud0 type bridge",
		fmt.Sprintf("ip link set cloud0 mtu %d up", underlayMTU),
		"ip address add " + gateway + "/24 dev cloud0",
	} {
		s.inside(strings.Fields(line)...)
	}
}

func (s *site) namespace() string { return fmt.Sprintf("/proc/%d/ns/net", s.holder.Process.Pid) }

// command is a program that sees the site's network; it becomes that program, so
// that its process id is the program's.
func (s *site) command(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + s.namespace(), "--"}, args...)...)
}

func (s *site) inside(args ...string) string {
	s.t.Helper()
	out, err := run(s.command(s.ctx, args...))
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

// here is a program of the module's, and the last line that it prints.
func (s *site) here(name string, args ...string) string {
	s.t.Helper()
	cmd := exec.Command("./"+name, args...)
	cmd.Dir, cmd.Stderr = moduleRoot, os.Stderr // it says what it does: the first time it is minutes
	out, err := cmd.Output()
	if err != nil {
		s.t.Fatalf("%s: %v", name, err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return lines[len(lines)-1]
}

func (s *site) until(limit time.Duration, what string, try func() error) {
	s.t.Helper()
	deadline := time.Now().Add(limit)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) || s.ctx.Err() != nil {
			s.t.Fatalf("%s: not within %s: %v", what, limit, err)
		}
		<-tick.C
	}
}

// run gives what a program printed, and an error that carries all it said.
func run(cmd *exec.Cmd) (string, error) {
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = 2 * time.Second
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}
