// Package ovstest owns private Open vSwitch instances for tests: a real
// ovsdb-server and a real ovs-vswitchd in a directory and a network namespace
// of their own. It never touches the machine's own instance nor any interface
// of another namespace.
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

// schema gives the path of the database's schema: beside the programs, where
// scripts/ovs-path.sh put them, else where the packages put it.
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

// VersionEnv names the version of Open vSwitch on which the tests run, such as "3.5", from
// the directory that scripts/ovs-path.sh made; without it they run on what is on the PATH.
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
			_ = os.Setenv("PATH", programs+":"+os.Getenv("PATH")) // Start looks which version runs
			return
		}
	}
}

// Instance is a running Open vSwitch.
type Instance struct {
	Dir   string // rundir, database and logs
	NetNS string // name of the namespace, under /run/netns

	db, switchd *exec.Cmd
}

// Start brings an instance up; it ends with the test. A machine that cannot
// run one fails the test.
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
	// Not t.TempDir: its path may be longer than a unix socket's may be (108 bytes).
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
	// The tests of another version must not pass on this machine's.
	if want, said := os.Getenv(VersionEnv), i.Run(t, "ovs-appctl", "version"); !strings.Contains(said, "(Open vSwitch) "+want) {
		t.Fatalf("the switch says %q; %s wants version %s: make test-ovs OVS=%s", said, VersionEnv, want, want)
	}
	return i
}

// Socket is the database's, as ovs.Config wants it.
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

// ReplaceDB puts an empty database in the place of the running one.
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

// VSCtl is an ovs-vsctl that talks to the instance.
func (i *Instance) VSCtl(args ...string) *exec.Cmd {
	return i.command("ovs-vsctl", append([]string{"--db=" + i.Socket(), "-t", "10"}, args...)...)
}

// Run runs a program in the instance's namespace, with OVS tools talking to
// the instance, and returns what it printed.
func (i *Instance) Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	return must(t, i.command(name, args...))
}

// Try is Run for what may fail, as while the switch starts.
func (i *Instance) Try(name string, args ...string) (string, error) {
	out, err := i.command(name, args...).Output()
	return string(out), err
}

// AddVeth makes a veth pair in the namespace, name and name+"p", both up.
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

// start runs a daemon as a child. nsenter execs, so the child is the daemon.
func (i *Instance) start(t testing.TB, name string, args ...string) *exec.Cmd {
	t.Helper()
	args = append(args, "--no-chdir", "--pidfile", "--log-file", "-vconsole:off")
	cmd := i.command(name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a ^C on the test leaves the end to Cleanup
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
	_ = cmd.Wait() // it was killed, so it says so
}

func must(t testing.TB, cmd *exec.Cmd) string {
	t.Helper()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatal(fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, out))
	}
	return string(out)
}
