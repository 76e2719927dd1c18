// Package ovstest runs private Open vSwitch instances for tests: a real ovsdb-server and
// a real ovs-vswitchd in their own directory and network namespace. It never changes the
// machine's own instance or an interface in another namespace.
package ovstest

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// schema returns the path of the database schema. It is beside the programs if
// scripts/ovs-path.sh installed them, else where distribution packages put it.
func schema(t testing.TB) string {
	t.Helper()
	tool, err := exec.LookPath("ovsdb-tool")
	if err != nil {
		t.Fatal(err)
	}
	beside := filepath.Join(filepath.Dir(tool), "vswitch.ovsschema")
	if _, err := os.Stat(beside); err == nil {
		return beside
	}
	return "/usr/share/openvswitch/vswitch.ovsschema"
}

// VersionEnv is the environment variable with the Open vSwitch version to test, such as
// "3.5". The programs come from the directory that scripts/ovs-path.sh created. Without
// the variable, tests use the programs on the PATH.
const VersionEnv = "SOCKETPLANE_TEST_OVS"

func init() {
	version := os.Getenv(VersionEnv)
	if version == "" {
		return
	}
	dir, err := os.Getwd()
	for ; err == nil && dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		programs := filepath.Join(dir, "bin", "ovs-"+version)
		if _, found := os.Stat(programs); found == nil {
			_ = os.Setenv("PATH", programs+":"+os.Getenv("PATH")) // Start checks which version runs
			return
		}
	}
}

// Instance is a running Open vSwitch.
type Instance struct {
	Dir   string // sockets, database and logs
	NetNS string // name of the namespace under /run/netns

	db, switchd *exec.Cmd
}

// Start starts an instance that stops when the test ends. It fails the test if the
// machine cannot run one.
func Start(t testing.TB) *Instance {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("a private Open vSwitch needs root")
	}
	for _, tool := range []string{"ovsdb-tool", "ovsdb-server", "ovs-vswitchd", "ovs-ofctl", "ovs-vsctl", "ovs-appctl", "ip", "nsenter"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%s is not installed: %v", tool, err)
		}
	}
	// Not t.TempDir: its path may exceed the limit for a unix socket (108 bytes).
	dir, err := os.MkdirTemp("", "ovs")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	raw := make([]byte, 4)
	if _, err := rand.Read(raw); err != nil {
		t.Fatal(err)
	}
	i := &Instance{Dir: dir, NetNS: "ovstest-" + hex.EncodeToString(raw)}
	must(t, exec.Command("ip", "netns", "add", i.NetNS))
	t.Cleanup(func() { must(t, exec.Command("ip", "netns", "delete", i.NetNS)) })
	must(t, i.command("ip", "link", "set", "lo", "up"))
	must(t, exec.Command("ovsdb-tool", "create", filepath.Join(dir, "conf.db"), schema(t)))
	t.Cleanup(func() {
		i.KillSwitch(t)
		i.KillDB(t)
	})
	i.StartDB(t)
	must(t, i.VSCtl("--no-wait", "init"))
	i.StartSwitch(t)
	// Tests of another version must not pass with this machine's programs.
	if want, said := os.Getenv(VersionEnv), i.Run(t, "ovs-appctl", "version"); !strings.Contains(said, "(Open vSwitch) "+want) {
		t.Fatalf("the switch says %q; %s wants version %s: make test-ovs OVS=%s", said, VersionEnv, want, want)
	}
	return i
}

// Socket returns the address of the database for ovs.Config.
func (i *Instance) Socket() string { return "unix:" + i.Dir + "/db.sock" }

// StartDB starts ovsdb-server and waits for its socket.
func (i *Instance) StartDB(t testing.TB) {
	t.Helper()
	i.db = i.start(t, "ovsdb-server", filepath.Join(i.Dir, "conf.db"), "--remote=p"+i.Socket())
	i.waitFor(t, "ovsdb-server", func() bool { return i.VSCtl("--no-wait", "show").Run() == nil })
}

// StartSwitch starts ovs-vswitchd and waits until it answers.
func (i *Instance) StartSwitch(t testing.TB) {
	t.Helper()
	i.switchd = i.start(t, "ovs-vswitchd", i.Socket())
	i.waitFor(t, "ovs-vswitchd", func() bool { return i.command("ovs-appctl", "-T", "2", "version").Run() == nil })
}

// KillDB kills ovsdb-server with SIGKILL.
func (i *Instance) KillDB(t testing.TB) {
	t.Helper()
	kill(t, i.db)
	i.db = nil
}

// ReplaceDB replaces the running database with an empty one.
func (i *Instance) ReplaceDB(t testing.TB) {
	t.Helper()
	i.KillDB(t)
	if err := os.Remove(filepath.Join(i.Dir, "conf.db")); err != nil {
		t.Fatal(err)
	}
	must(t, exec.Command("ovsdb-tool", "create", filepath.Join(i.Dir, "conf.db"), schema(t)))
	i.StartDB(t)
	must(t, i.VSCtl("--no-wait", "init"))
}

// KillSwitch kills ovs-vswitchd with SIGKILL.
func (i *Instance) KillSwitch(t testing.TB) {
	t.Helper()
	kill(t, i.switchd)
	i.switchd = nil
}

// VSCtl returns an ovs-vsctl command for the instance.
func (i *Instance) VSCtl(args ...string) *exec.Cmd {
	return i.command("ovs-vsctl", append([]string{"--db=" + i.Socket(), "-t", "10"}, args...)...)
}

// Run runs a program in the instance's namespace and returns its output. OVS tools that
// it runs talk to the instance.
func (i *Instance) Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	return must(t, i.command(name, args...))
}

// Try is like Run for a program that may fail, such as while the switch starts.
func (i *Instance) Try(name string, args ...string) (string, error) {
	out, err := i.command(name, args...).Output()
	return string(out), err
}

// AddVeth creates a veth pair in the namespace, name and name+"p", both up.
func (i *Instance) AddVeth(t testing.TB, name string) {
	t.Helper()
	i.Run(t, "ip", "link", "add", name, "type", "veth", "peer", "name", name+"p")
	i.Run(t, "ip", "link", "set", name, "up")
	i.Run(t, "ip", "link", "set", name+"p", "up")
}

func (i *Instance) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command("nsenter", append([]string{"--net=/run/netns/" + i.NetNS, "--", name}, args...)...)
	cmd.Env = append(os.Environ(), "OVS_RUNDIR="+i.Dir, "OVS_DBDIR="+i.Dir, "OVS_LOGDIR="+i.Dir, "OVS_SYSCONFDIR="+i.Dir)
	return cmd
}

// start starts a daemon as a child process. nsenter execs, so the child is the daemon
// itself.
func (i *Instance) start(t testing.TB, name string, args ...string) *exec.Cmd {
	t.Helper()
	args = append(args, "--no-chdir", "--pidfile", "--log-file", "-vconsole:off")
	cmd := i.command(name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // ^C on the test must not reach it; Cleanup stops it
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	return cmd
}

func (i *Instance) waitFor(t testing.TB, what string, ready func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ready() {
		if time.Now().After(deadline) {
			log, _ := os.ReadFile(filepath.Join(i.Dir, what+".log"))
			t.Fatalf("%s did not come up; its log:\n%s", what, log)
		}
		<-tick.C
	}
}

func kill(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	if cmd == nil || cmd.Process == nil {
		return
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Errorf("kill %d: %v", cmd.Process.Pid, err)
	}
	_ = cmd.Wait() // the error only reports the kill
}

func must(t testing.TB, cmd *exec.Cmd) string {
	t.Helper()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatal(fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, out))
	}
	return string(out)
}
