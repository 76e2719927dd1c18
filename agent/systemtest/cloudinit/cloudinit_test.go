//go:build long

// Package cloudinit executes the examples of docs/cloud-init.md by the real
// cloud-init: whole machines that boot with user-data from a NoCloud seed.
package cloudinit

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/socketplane/socketplane/agent/systemtest/machine"
)

const (
	moduleRoot = "../../.."
	examples   = moduleRoot + "/examples/cloud-init/"

	gateway = "10.0.0.1" // of the cloud's network; the releases are served there
	first   = "10.0.0.11"
)

// Promise: three machines that boot with the examples' user-data are a cluster, and
// nobody has logged in. The network's packets fit into a cloud's own tunnel. The
// token is in no log and no argument.
func TestCloudInit(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	yard, err := machine.Open(ctx, moduleRoot, "guest")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := yard.Close(context.Background()); err != nil {
			t.Errorf("the yard is not gone: %v", err)
		}
	})
	c := &cloud{t: t, ctx: ctx, yard: yard, token: strings.TrimSpace(c0(t, "bin/socketplane", "cluster", "token", "--new"))}
	c.network()
	c.serveRelease()

	started := time.Now()
	for _, n := range []int{3, 2, 1} { // the first host comes last: the others wait
		c.nodes[n-1] = c.boot(n)
	}
	defer c.diagnose()
	for n, m := range c.nodes {
		out := c.exec(m, "cloud-init", "status", "--long", "--wait")
		if !strings.Contains(out, "status: done") || !strings.Contains(out, "DataSourceNoCloud") {
			t.Errorf("node-%d: %s", n+1, out)
		}
	}
	t.Logf("three machines from nothing to a cluster: %.1f s", time.Since(started).Seconds())

	for n, m := range c.nodes {
		c.until(fmt.Sprintf("node-%d sees three hosts", n+1), func() error {
			out, err := m.Exec(ctx, "socketplane", "cluster", "members")
			if err == nil && strings.Count(out, " alive ") != 3 {
				err = fmt.Errorf("%s", out)
			}
			return err
		})
	}
	t.Log("\n" + c.exec(c.nodes[0], "socketplane", "cluster", "members"))
	c.reach()
	t.Logf("to the first ping: %.1f s", time.Since(started).Seconds())
	c.schema()
	c.noToken()
}

// reach: an underlay of 1450 bytes carries packets of 1400, whole.
func (c *cloud) reach() {
	c.t.Helper()
	shown := c.exec(c.nodes[1], "socketplane", "network", "create", "web", "10.6.0.0/16")
	c.t.Log("\n" + shown)
	if !strings.Contains(shown, "1400") {
		c.t.Errorf("an underlay of 1450 does not give 1400:\n%s", shown)
	}
	for _, m := range c.nodes {
		c.exec(m, "docker", "import", "/usr/local/share/images/busybox.tar", "busybox")
	}
	c.exec(c.nodes[1], "socketplane", "run", "-n", "web", "--ip", "10.6.0.10", "-d", "--init", "--name", "server", "busybox", "httpd", "-f", "-p", "80", "-h", "/bin")
	c.exec(c.nodes[2], "socketplane", "run", "-n", "web", "-d", "--init", "--name", "client", "busybox", "sleep", "100000")
	c.until("a packet of 1400 bytes", func() error {
		_, err := c.nodes[2].Exec(c.ctx, "docker", "exec", "client", "ping", "-c", "1", "-W", "1", "-s", "1372", "10.6.0.10")
		return err
	})
	got := c.exec(c.nodes[2], "docker", "exec", "client", "sh", "-c", "wget -q -O - http://10.6.0.10/busybox | wc -c")
	want := c.exec(c.nodes[2], "docker", "exec", "client", "sh", "-c", "wc -c </bin/busybox")
	if strings.TrimSpace(got) != strings.TrimSpace(want) {
		c.t.Errorf("of a file of %s bytes %s arrived", strings.TrimSpace(want), strings.TrimSpace(got))
	}
}

// schema has cloud-init look at the examples, as they are and filled in.
func (c *cloud) schema() {
	c.t.Helper()
	for _, name := range []string{"bootstrap.yaml", "join.yaml"} {
		text, err := os.ReadFile(examples + name)
		if err != nil {
			c.t.Fatal(err)
		}
		if err := c.nodes[0].Write(c.ctx, "/root/"+name, 0o600, text); err != nil {
			c.t.Fatal(err)
		}
		if out := c.exec(c.nodes[0], "cloud-init", "schema", "--config-file", "/root/"+name); !strings.Contains(out, "Valid") {
			c.t.Errorf("%s: %s", name, out)
		}
	}
	if err := c.nodes[0].Write(c.ctx, "/root/filled.yaml", 0o600, c.userData("join.yaml")); err != nil {
		c.t.Fatal(err)
	}
	c.exec(c.nodes[0], "cloud-init", "schema", "--config-file", "/root/filled.yaml")
	c.exec(c.nodes[0], "rm", "/root/filled.yaml")
}

// noToken looks for the token in logs, arguments and environments.
func (c *cloud) noToken() {
	c.t.Helper()
	const look = `grep -rlF -f /etc/socketplane/first.token /var/log /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null; journalctl --no-pager | grep -F -f /etc/socketplane/first.token; :`
	for n, m := range c.nodes {
		if found := c.exec(m, "sh", "-c", look); found != "" {
			c.t.Errorf("node-%d: the token is in %s", n+1, found)
		}
		if got := strings.TrimSpace(c.exec(m, "socketplane", "cluster", "token")); got != c.token {
			c.t.Errorf("node-%d has another token", n+1)
		}
		if mode := strings.TrimSpace(c.exec(m, "stat", "-c", "%a", "/etc/socketplane/first.token")); mode != "600" {
			c.t.Errorf("node-%d: the token's file has mode %s", n+1, mode)
		}
	}
}

// c0 is a program of this machine, before there is a cloud.
func c0(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command("./"+name, args...)
	cmd.Dir = moduleRoot
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return string(out)
}
