//go:build long

package machine

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

var yard *Yard

func TestMain(m *testing.M) { os.Exit(runMain(m)) }

func runMain(m *testing.M) int {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	var err error
	if yard, err = Open(ctx, moduleRoot, "plain"); err != nil {
		fmt.Fprintln(os.Stderr, "machine:", err)
		return 1
	}
	defer func() {
		if err := yard.Close(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, "machine: the yard is not gone:", err)
		}
	}()
	return m.Run()
}

// The package's life on a machine: it is installed and the agent runs; the agent
// restarts and the machine does, and containers have their network again; removing
// is refused while it carries containers, and gives the machine back.
func TestPackage(t *testing.T) {
	m := boot(t, "pkg")
	m.copy(buildPackage(t), "/root/socketplane.deb")
	before := m.listing()

	m.exec("dpkg", "--install", "/root/socketplane.deb")
	m.active()
	m.noMountNamespace()
	m.containers()
	m.exec("ip", "netns", "add", "bound-later")
	m.exec("socketplane", "connect", "-n", "web", "--netns", "/run/netns/bound-later", "--id", "bound")
	m.exec("systemctl", "restart", "socketplane")
	m.ping()
	m.exec("dpkg", "--install", "/root/socketplane.deb") // as an upgrade does
	m.active()
	m.ping()
	m.proxy()
	m.refused("containers are attached", "apt-get", "remove", "--yes", "socketplane")
	m.active()
	m.exec("socketplane", "disconnect", "bound")
	m.exec("ip", "netns", "delete", "bound-later")
	m.exec("docker", "rm", "--force", "one", "two")
	m.exec("apt-get", "remove", "--yes", "socketplane")
	m.refused("", "systemctl", "is-active", "socketplane")
	m.exec("dpkg", "--purge", "socketplane")
	m.same(before)

	// Again, over a boot, and with --force.
	m.exec("dpkg", "--install", "/root/socketplane.deb")
	m.active()
	m.containers()
	m.reboot()
	m.active()
	m.ping()
	m.exec("socketplane", "uninstall", "--force")
	m.exec("docker", "rm", "--force", "one", "two")
	m.exec("dpkg", "--purge", "socketplane")
	m.reboot()
	m.same(before)
}

// A host whose switch does not start has its Docker all the same, a little later; and
// the agent is there when the switch is.
func TestDockerStartsWithoutTheSwitch(t *testing.T) {
	m := boot(t, "noswitch")
	m.copy(buildPackage(t), "/root/socketplane.deb")
	m.exec("dpkg", "--install", "/root/socketplane.deb")
	m.active()
	units := []string{"openvswitch-switch", "ovsdb-server", "ovs-vswitchd"}
	m.exec(append([]string{"systemctl", "mask"}, units...)...)
	if _, err := yard.docker(m.ctx, "restart", "--time", "60", m.Name); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	err := until(m.ctx, time.Minute, func() error {
		_, err := m.Exec(m.ctx, "docker", "info")
		return err
	})
	if err != nil {
		t.Fatalf("Docker does not start: %v\n%s", err, m.exec("journalctl", "--no-pager", "--lines", "40"))
	}
	t.Logf("Docker answers %.0f s after the boot", time.Since(start).Seconds())
	m.exec(append([]string{"systemctl", "unmask"}, units...)...)
	m.exec("systemctl", "start", "openvswitch-switch")
	m.active()
}

// install.sh from a directory, as it is used without a network: run twice it is
// run once, and uninstall gives the machine back.
func TestInstallScript(t *testing.T) {
	m := boot(t, "script")
	before := m.listing()
	install := m.installer()
	t.Log("\n" + m.exec(install...))
	m.active()
	m.containers()
	once := m.listing()
	again := m.exec(install...)
	t.Log("\n" + again)
	for _, did := range []string{"wrote", "installed", "made"} {
		if strings.Contains(again, did) {
			t.Errorf("the second run did something: %q in\n%s", did, again)
		}
	}
	m.same(once)
	m.reboot()
	m.active()
	m.ping()
	m.refused("containers are attached", "socketplane", "uninstall")
	m.exec("docker", "rm", "--force", "one", "two")
	t.Log("\n" + m.exec("socketplane", "uninstall", "--purge"))
	m.reboot()
	m.same(before)
}

// installer puts install.sh on the machine, with a directory that has all it needs,
// and gives the command that runs it.
func (m *tested) installer() []string {
	m.t.Helper()
	m.exec("mkdir", "/root/from")
	m.copy(filepath.Join(moduleRoot, "bin", "socketplane"), "/root/from/")
	consul, err := exec.LookPath("consul")
	if err != nil {
		consul = filepath.Join(moduleRoot, "bin", "consul")
	}
	if consul, err = filepath.EvalSymlinks(consul); err != nil {
		m.t.Fatal(err)
	}
	m.copy(consul, "/root/from/consul")
	m.copy(filepath.Join(moduleRoot, "scripts", "install.sh"), "/root/")
	return []string{"env", "SOCKETPLANE_FROM=/root/from", "sh", "/root/install.sh"}
}

// tested is a machine whose failures end the test.
type tested struct {
	*Machine
	t   *testing.T
	ctx context.Context
}

// boot starts a machine with an image that containers can be made of.
func boot(t *testing.T, name string) *tested {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	t.Cleanup(cancel)
	m, err := yard.Start(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	tm := &tested{Machine: m, t: t, ctx: ctx}
	tm.copy(busyboxImage(t), "/root/busybox.tar")
	tm.exec("docker", "import", "/root/busybox.tar", "busybox")
	return tm
}

func (m *tested) exec(args ...string) string {
	m.t.Helper()
	out, err := m.Exec(m.ctx, args...)
	if err != nil {
		m.t.Fatalf("%v\n%s", err, out)
	}
	return out
}

func (m *tested) copy(from, to string) {
	m.t.Helper()
	if err := m.Copy(m.ctx, from, to); err != nil {
		m.t.Fatal(err)
	}
}

func (m *tested) reboot() {
	m.t.Helper()
	if err := m.Reboot(m.ctx); err != nil {
		m.t.Fatal(err)
	}
}

// refused expects a command to fail and to say why.
func (m *tested) refused(why string, args ...string) {
	m.t.Helper()
	out, err := m.Exec(m.ctx, args...)
	if err == nil || !strings.Contains(out+err.Error(), why) {
		m.t.Fatalf("%v: %v; want a failure that says %q\n%s", args, err, why, out)
	}
}

// active waits until the unit is up and the agent ready.
func (m *tested) active() {
	m.t.Helper()
	err := until(m.ctx, 30*time.Second, func() error {
		if _, err := m.Exec(m.ctx, "systemctl", "is-active", "socketplane", "docker"); err != nil {
			return err
		}
		out, err := m.Exec(m.ctx, "socketplane", "agent", "status")
		if err == nil && !strings.Contains(out, "Ready:          yes") {
			err = fmt.Errorf("not ready:\n%s", out)
		}
		return err
	})
	if err != nil {
		m.t.Fatalf("%v\n%s", err, m.exec("journalctl", "--no-pager", "--lines", "40", "--unit", "socketplane"))
	}
}

// noMountNamespace: the agent sees the host's files, whatever is mounted later.
func (m *tested) noMountNamespace() {
	m.t.Helper()
	pid := strings.TrimSpace(m.exec("systemctl", "show", "--property", "MainPID", "--value", "socketplane"))
	if a, b := m.exec("readlink", "/proc/1/ns/mnt"), m.exec("readlink", "/proc/"+pid+"/ns/mnt"); a != b {
		m.t.Errorf("the agent is in mount namespace %s, systemd in %s", b, a)
	}
}

// proxy starts the proxy's unit, asks it, and stops it.
func (m *tested) proxy() {
	m.t.Helper()
	if state, _ := m.Exec(m.ctx, "systemctl", "is-enabled", "socketplane-proxy"); strings.TrimSpace(state) != "disabled" {
		m.t.Errorf("the proxy's unit is %s", state)
	}
	m.exec("systemctl", "start", "socketplane-proxy")
	err := until(m.ctx, 10*time.Second, func() error {
		_, err := m.Exec(m.ctx, "curl", "--silent", "--fail", "http://127.0.0.1:2375/containers/json")
		return err
	})
	if err != nil {
		m.t.Errorf("%v\n%s", err, m.exec("journalctl", "--no-pager", "--lines", "20", "--unit", "socketplane-proxy"))
	}
	m.exec("systemctl", "stop", "socketplane-proxy")
}

// containers starts two that come back after a boot, one of each kind.
func (m *tested) containers() {
	m.t.Helper()
	m.exec("socketplane", "network", "create", "web", "10.6.0.0/16")
	m.exec("socketplane", "run", "-n", "web", "-d", "--init", "--ip", "10.6.0.11", "--name", "one", "--restart", "always", "busybox", "sleep", "100000")
	m.exec("docker", "run", "--network", "web", "-d", "--init", "--ip", "10.6.0.12", "--name", "two", "--restart", "always", "busybox", "sleep", "100000")
	m.ping()
}

// ping waits until one reaches two and two one.
func (m *tested) ping() {
	m.t.Helper()
	for from, to := range map[string]string{"one": "10.6.0.12", "two": "10.6.0.11"} {
		err := until(m.ctx, 20*time.Second, func() error {
			_, err := m.Exec(m.ctx, "docker", "exec", from, "ping", "-c", "1", "-W", "1", to)
			return err
		})
		if err != nil {
			m.t.Fatalf("%s does not reach %s: %v\n%s", from, to, err, m.exec("socketplane", "info"))
		}
	}
}

func (m *tested) listing() []string {
	m.t.Helper()
	l, err := m.Listing(m.ctx)
	if err != nil {
		m.t.Fatal(err)
	}
	return l
}

// same compares the machine with how it was. What follows by itself (a container's
// interface) gets a moment.
func (m *tested) same(before []string) {
	m.t.Helper()
	err := until(m.ctx, 5*time.Second, func() error {
		now := m.listing()
		var diff []string
		for _, l := range before {
			if !slices.Contains(now, l) {
				diff = append(diff, "- "+l)
			}
		}
		for _, l := range now {
			if !slices.Contains(before, l) {
				diff = append(diff, "+ "+l)
			}
		}
		if len(diff) > 0 {
			return fmt.Errorf("the machine is not as it was:\n%s", strings.Join(diff, "\n"))
		}
		return nil
	})
	if err != nil {
		m.t.Fatal(err)
	}
}

// buildPackage makes the .deb and gives its path.
func buildPackage(t *testing.T) string {
	t.Helper()
	cmd := exec.Command("scripts/package.sh")
	cmd.Dir = moduleRoot
	out, err := run(cmd)
	if err != nil {
		t.Fatal(err)
	}
	path, ok := strings.CutSuffix(lastLine(out), " is built")
	if !ok {
		t.Fatalf("scripts/package.sh said:\n%s", out)
	}
	return filepath.Join(moduleRoot, path)
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}

// busyboxImage makes the root file system of containers.
func busyboxImage(t *testing.T) string {
	t.Helper()
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	root := filepath.Join(dir, "root", "bin")
	if err := os.MkdirAll(root, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"cp", busybox, root + "/busybox"},
		{"ln", "-s", "busybox", root + "/sleep"},
		{"ln", "-s", "busybox", root + "/ping"},
		{"tar", "-C", dir + "/root", "-cf", dir + "/busybox.tar", "."},
	} {
		if _, err := run(exec.Command(args[0], args[1:]...)); err != nil {
			t.Fatal(err)
		}
	}
	return dir + "/busybox.tar"
}
