//go:build long

// Package vagrant is the acceptance run of `vagrant up --provider=docker`: whole
// machines, made and used as a user would, on a dockerd with namespaces of its own.
package vagrant

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/socketplane/socketplane/agent/systemtest/machine"
)

const moduleRoot = ".."

// hosts is what one `vagrant up` made.
type hosts struct {
	t     *testing.T
	ctx   context.Context
	yard  *machine.Yard
	nodes int
	home  string // of Vagrant, and of what it keeps of this Vagrantfile
	said  bytes.Buffer
}

// Promise: `vagrant up` gives a cluster of as many hosts as were asked for; a
// container on one is reached from another; it is all back after halt and up;
// provisioning again changes nothing; destroy leaves nothing. The token is nowhere
// but in its files.
func TestVagrant(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
	defer cancel()
	// Vagrant's trigger makes the image too (prepare.sh), but in the yard, which has no way out.
	if _, err := machine.BuildImage(ctx, moduleRoot, "guest"); err != nil {
		t.Fatal(err)
	}
	yard, err := machine.OpenEmpty(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := yard.Close(context.Background()); err != nil {
			t.Errorf("the yard is not gone: %v", err)
		}
	})
	for _, nodes := range []int{3, 1, 5} {
		t.Run(fmt.Sprintf("%d nodes", nodes), func(t *testing.T) {
			h := &hosts{t: t, ctx: ctx, yard: yard, nodes: nodes, home: t.TempDir()}
			defer h.diagnose()
			h.vagrant("validate")
			h.validateVirtualBox()
			before := h.inDocker()
			started := time.Now()
			h.vagrant("up", "--provider=docker")
			h.timed("from vagrant up to a cluster of "+fmt.Sprint(nodes), started)
			h.walk()
			h.timed("from vagrant up to the first ping", started)
			h.reached()
			h.noToken()
			if nodes == 3 {
				started = time.Now()
				h.vagrant("halt")
				h.timed("halt", started)
				started = time.Now()
				h.vagrant("up", "--provider=docker")
				h.pinged()
				h.timed("from vagrant up again to the first ping", started)
				h.reached()
				h.vagrant("provision")
				h.reached()
			}
			h.vagrant("destroy", "--force")
			if now := h.inDocker(); now != before {
				t.Errorf("destroy leaves:\n%s\nbefore there was:\n%s", now, before)
			}
			if _, err := os.Stat(h.share()); !os.IsNotExist(err) {
				t.Errorf("destroy leaves %s", h.share())
			}
		})
	}
}

// walk starts a web server on the first host, and waits for it from the last.
func (h *hosts) walk() {
	h.t.Helper()
	h.ssh(1, "sudo socketplane network create foo4 10.6.0.0/16 && sudo socketplane run -n foo4 --ip 10.6.0.10 -d --init --restart always --name web busybox httpd -f -p 80 -h /etc")
	h.ssh(h.nodes, "sudo socketplane run -n foo4 -d --init --restart always --name other busybox sleep 100000")
	h.pinged()
}

// pinged waits until the container on the last host reaches the web server's.
func (h *hosts) pinged() {
	h.t.Helper()
	h.until("a ping", func() error {
		_, err := h.try(h.nodes, "sudo docker exec other ping -c 1 -W 1 10.6.0.10")
		return err
	})
}

// reached is true of a cluster that works: all hosts are alive, each reaches a
// container on the first, by ping and by its web server.
func (h *hosts) reached() {
	h.t.Helper()
	for n := 1; n <= h.nodes; n++ {
		h.until(fmt.Sprintf("socketplane-%d sees %d hosts", n, h.nodes), func() error {
			out, err := h.try(n, "sudo socketplane cluster members")
			if alive := strings.Count(out, " alive "); err == nil && alive != h.nodes {
				err = fmt.Errorf("%d of %d are alive:\n%s", alive, h.nodes, out)
			}
			return err
		})
		h.until(fmt.Sprintf("socketplane-%d reaches the web server", n), func() error {
			out, err := h.try(n, "sudo socketplane run -n foo4 --rm busybox wget -q -O - http://10.6.0.10/passwd")
			if err == nil && !strings.Contains(out, "root:x:0:0") {
				err = fmt.Errorf("it says %q", out)
			}
			return err
		})
	}
	h.pinged()
}

// noToken looks for the token where it must not be: in what Vagrant said, in the
// guests' journals and processes.
func (h *hosts) noToken() {
	h.t.Helper()
	token, err := os.ReadFile(filepath.Join(h.share(), "token"))
	if err != nil {
		h.t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(h.share(), "token")); err != nil || info.Mode().Perm() != 0o600 {
		h.t.Errorf("the token's file: %v, %v", info.Mode(), err)
	}
	secret := strings.TrimSpace(string(token))
	if strings.Contains(h.said.String(), secret) {
		h.t.Error("Vagrant printed the token")
	}
	for n := 1; n <= h.nodes; n++ {
		// The token is read from the file; it must not be in this command either.
		found := h.ssh(n, `sudo sh -c '{ journalctl --no-pager; cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null; } | grep -a -c -F -f /vagrant/token || :'`)
		if strings.TrimSpace(found) != "0" {
			h.t.Errorf("socketplane-%d: the token is in %s lines of the journal, or of processes", n, strings.TrimSpace(found))
		}
		if got := strings.TrimSpace(h.ssh(n, "sudo socketplane cluster token")); got != secret {
			h.t.Errorf("socketplane-%d has another token", n)
		}
	}
}

func (h *hosts) share() string { return filepath.Join(h.home, "dot", "share") }

// inDocker is what vagrant destroy has to take away.
func (h *hosts) inDocker() string {
	h.t.Helper()
	var all strings.Builder
	for _, list := range [][]string{
		{"ps", "--all", "--format", "{{.Names}}"}, {"network", "ls", "--format", "{{.Name}}"}, {"volume", "ls", "--quiet"},
	} {
		cmd := h.yard.Command(h.ctx, append([]string{"docker"}, list...)...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			h.t.Fatalf("%v: %s", err, out)
		}
		fmt.Fprintf(&all, "%s: %s\n", list[0], strings.Join(strings.Fields(string(out)), " "))
	}
	return all.String()
}

// vagrant runs a command of Vagrant, which has to succeed.
func (h *hosts) vagrant(args ...string) {
	h.t.Helper()
	started := time.Now()
	out, err := h.command(args...).CombinedOutput()
	h.said.Write(out)
	h.t.Logf("vagrant %s: %.1f s", strings.Join(args, " "), time.Since(started).Seconds())
	if err != nil {
		h.t.Fatalf("vagrant %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// validateVirtualBox has Vagrant read the Vagrantfile as for VirtualBox, which is not
// here: its overrides are judged, and what is VirtualBox's own is not.
func (h *hosts) validateVirtualBox() {
	h.t.Helper()
	cmd := h.command("validate", "--ignore-provider")
	cmd.Env = append(cmd.Env, "VAGRANT_DEFAULT_PROVIDER=virtualbox")
	if out, err := cmd.CombinedOutput(); err != nil {
		h.t.Errorf("vagrant validate, for VirtualBox: %v\n%s", err, out)
	}
}

func (h *hosts) command(args ...string) *exec.Cmd {
	cmd := h.yard.Command(h.ctx, append([]string{"vagrant"}, args...)...)
	cmd.Dir = moduleRoot
	cmd.Env = append(cmd.Env, fmt.Sprintf("SOCKETPLANE_NODES=%d", h.nodes), "VAGRANT_HOME="+h.home+"/home",
		"VAGRANT_DOTFILE_PATH="+h.home+"/dot", "VAGRANT_CHECKPOINT_DISABLE=1", "VAGRANT_DEFAULT_PROVIDER=docker")
	return cmd
}

// ssh runs a command in a guest as a user would.
func (h *hosts) ssh(n int, command string) string {
	h.t.Helper()
	out, err := h.try(n, command)
	if err != nil {
		h.t.Fatal(err)
	}
	return out
}

func (h *hosts) try(n int, command string) (string, error) {
	cmd := h.command("ssh", fmt.Sprintf("socketplane-%d", n), "-c", command)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("socketplane-%d: %s: %w\n%s%s", n, command, err, out.String(), said.String())
	}
	return out.String(), nil
}

func (h *hosts) until(what string, try func() error) {
	h.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			h.t.Fatalf("%s: not within a minute: %v", what, err)
		}
	}
}

func (h *hosts) timed(what string, since time.Time) {
	h.t.Helper()
	h.t.Logf("%s: %.1f s", what, time.Since(since).Seconds())
}

// diagnose shows the agents' journals when a test has failed.
func (h *hosts) diagnose() {
	if !h.t.Failed() {
		return
	}
	for n := 1; n <= h.nodes; n++ {
		out, err := h.try(n, "sudo socketplane agent status; sudo journalctl --no-pager -n 40 -u socketplane; ip -br address")
		h.t.Logf("socketplane-%d: %v\n%s", n, err, out)
	}
	out, err := h.command("destroy", "--force").CombinedOutput() // the next wants the same addresses
	h.t.Logf("vagrant destroy: %v\n%s", err, out)
}
