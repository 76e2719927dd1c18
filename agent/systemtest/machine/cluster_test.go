//go:build long

package machine

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// As the 2015 articles begin: BOOTSTRAP=true sh install.sh makes a cluster of one
// machine, another installs itself into it with the token, containers reach each
// other; who is uninstalled has left, and the other goes on.
func TestInstallScriptMakesACluster(t *testing.T) {
	one, two := boot(t, "first"), boot(t, "second")
	for _, m := range []*tested{one, two} { // the switch runs in user space here
		m.copy(filepath.Join(moduleRoot, "scripts", "guest", "userspace-uplink"), "/root/")
		m.exec("sh", "/root/userspace-uplink", "eth0")
	}
	install := slices.Insert(one.installer(), 1, "BOOTSTRAP=true")
	t.Log("\n" + one.exec(install...))
	one.active()
	one.members("first server")
	if again := one.exec(install...); !strings.Contains(again, "began on this host already") {
		t.Errorf("the second run:\n%s", again)
	}

	addr := strings.Fields(one.exec("ip", "-4", "-brief", "address", "show", "dev", "br-phy"))[2]
	addr, _, _ = strings.Cut(addr, "/")
	token := strings.TrimSpace(one.exec("socketplane", "cluster", "token"))
	join := two.installer()
	two.exec("sh", "-c", `umask 077; echo "$0" >/root/token`, token)
	t.Log("\n" + two.exec(append(join, "--join", addr, "--token-file", "/root/token")...))
	two.active()
	one.members("first server", "second client")
	two.members("first server", "second client")

	const ip = "10.6.0.11"
	one.exec("socketplane", "network", "create", "web", "10.6.0.0/16")
	one.exec("socketplane", "run", "-n", "web", "-d", "--init", "--ip", ip, "--name", "one", "busybox", "sleep", "100000")
	two.exec("socketplane", "run", "-n", "web", "-d", "--init", "--name", "two", "busybox", "sleep", "100000")
	two.reaches(ip)

	two.refused("containers are attached", "socketplane", "uninstall")
	two.exec("docker", "rm", "--force", "two")
	if out := two.exec("socketplane", "uninstall", "--purge"); !strings.Contains(out, "has left cluster") {
		t.Errorf("uninstall:\n%s", out)
	}
	one.members("first server")
	one.exec("docker", "rm", "--force", "one")
	one.exec("socketplane", "network", "delete", "web")
}

// members waits until the cluster has these hosts, each with its role, and no others.
func (m *tested) members(want ...string) {
	m.t.Helper()
	err := until(m.ctx, time.Minute, func() error {
		out, err := m.Exec(m.ctx, "socketplane", "cluster", "members")
		if err != nil {
			return err
		}
		var have []string
		for _, line := range strings.Split(strings.TrimSpace(out), "\n")[1:] {
			f := strings.Fields(strings.Replace(line, " *", "", 1))
			if len(f) != 5 || f[2] != "alive" {
				return fmt.Errorf("%q", line)
			}
			have = append(have, f[0]+" "+f[3])
		}
		if !slices.Equal(have, want) {
			return fmt.Errorf("%q", have)
		}
		return nil
	})
	if err != nil {
		m.t.Fatalf("%s: the members are not %q: %v", m.Name, want, err)
	}
}

// reaches waits until container two of this machine reaches an address.
func (m *tested) reaches(ip string) {
	m.t.Helper()
	err := until(m.ctx, time.Minute, func() error {
		_, err := m.Exec(m.ctx, "docker", "exec", "two", "ping", "-c", "1", "-W", "1", ip)
		return err
	})
	if err != nil {
		m.t.Fatalf("%s does not reach %s: %v\n%s", m.Name, ip, err, m.exec("socketplane", "info"))
	}
}
