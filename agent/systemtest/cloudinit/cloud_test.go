//go:build long

package cloudinit

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/socketplane/socketplane/agent/systemtest/machine"
	"github.com/socketplane/socketplane/agent/systemtest/release"
)

// cloud is a network of machines, with what they find in the internet.
type cloud struct {
	t     *testing.T
	ctx   context.Context
	yard  *machine.Yard
	token string
	ca    []byte // PEM, of who serves the releases
	nodes [3]*machine.Machine
}

// network makes the machines' network: like a cloud's it is a tunnel itself, of
// 1450 bytes.
func (c *cloud) network() {
	c.t.Helper()
	c.command("docker", "network", "create", "--subnet", "10.0.0.0/24", "--gateway", gateway,
		"--opt", "com.docker.network.driver.mtu=1450", "--opt", "com.docker.network.bridge.name=cloud0", "cloud")
	// What the machines' switches read from the wire has to be whole.
	c.command("ethtool", "-K", "cloud0", "tx", "off")
}

// serveRelease serves what `make package` made where releases are.
func (c *cloud) serveRelease() {
	c.t.Helper()
	server, err := release.New(moduleRoot)
	if err != nil {
		c.t.Fatal(err)
	}
	c.ca = server.CA
	listener, err := c.yard.Listen(c.ctx, gateway+":443")
	if err != nil {
		c.t.Fatal(err)
	}
	stop := server.Serve(listener)
	c.t.Cleanup(func() { _ = stop() })
}

// userData is an example, filled in as docs/cloud-init.md says.
func (c *cloud) userData(name string) []byte {
	c.t.Helper()
	text, err := os.ReadFile(examples + name)
	if err != nil {
		c.t.Fatal(err)
	}
	return []byte(strings.NewReplacer("${TOKEN}", c.token, "${FIRST}", first).Replace(string(text)))
}

// boot starts a machine as a cloud does: with an address, and user-data.
func (c *cloud) boot(n int) *machine.Machine {
	c.t.Helper()
	name := fmt.Sprintf("node-%d", n)
	m, err := c.yard.Create(c.ctx, name, "--network", "cloud", "--ip", fmt.Sprintf("10.0.0.%d", 10+n), "--add-host", release.Host+":"+gateway)
	if err != nil {
		c.t.Fatal(err)
	}
	example := "join.yaml"
	if n == 1 {
		example = "bootstrap.yaml"
	}
	const seed = "/var/lib/cloud/seed/nocloud/"
	for _, f := range []struct{ path, text string }{
		{seed + "user-data", string(c.userData(example))},
		{seed + "meta-data", fmt.Sprintf("instance-id: i-%d\nlocal-hostname: %s\n", n, name)},
		{"/etc/ssl/certs/ca-certificates.crt", string(c.ca)},
		// The image has no other locale.
		{"/etc/cloud/cloud.cfg.d/98-locale.cfg", "locale: C.UTF-8\n"},
		// Where the kernel has no openvswitch.
		{"/etc/systemd/system/multi-user.target.d/uplink.conf", "[Unit]\nWants=userspace-uplink@eth0.service\n"},
		{"/etc/systemd/system/userspace-uplink@eth0.service.d/order.conf", "[Unit]\nBefore=cloud-config.service\n"},
	} {
		if err := m.Write(c.ctx, f.path, 0o600, []byte(f.text)); err != nil {
			c.t.Fatal(err)
		}
	}
	// Consul's release is not to be had here: it is on the PATH, as in an image that has it.
	consul, err := exec.LookPath("consul")
	if err != nil {
		consul = filepath.Join(moduleRoot, "bin", "consul")
	}
	if consul, err = filepath.EvalSymlinks(consul); err == nil {
		err = m.Copy(c.ctx, consul, "/usr/local/bin/consul")
	}
	if err == nil {
		err = m.Launch(c.ctx)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	return m
}

// command runs a program of this machine in the yard.
func (c *cloud) command(args ...string) {
	c.t.Helper()
	if out, err := c.yard.Command(c.ctx, args...).CombinedOutput(); err != nil {
		c.t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
}

func (c *cloud) exec(m *machine.Machine, args ...string) string {
	c.t.Helper()
	out, err := m.Exec(c.ctx, args...)
	if err != nil {
		c.t.Fatalf("%v\n%s", err, out)
	}
	return out
}

func (c *cloud) until(what string, try func() error) {
	c.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("%s: not within 30 s: %v", what, err)
		}
		<-tick.C
	}
}

// diagnose shows what cloud-init said when the test has failed.
func (c *cloud) diagnose() {
	if !c.t.Failed() {
		return
	}
	for n, m := range c.nodes {
		if m == nil {
			continue
		}
		out, err := m.Exec(c.ctx, "sh", "-c", "cloud-init status --long; tail -n 40 /var/log/cloud-init-output.log; grep -E 'WARN|ERR|Traceback' /var/log/cloud-init.log; ip -br address; ip route; systemctl --failed --no-legend; socketplane agent status")
		c.t.Logf("node-%d: %v\n%s", n+1, err, out)
	}
}
