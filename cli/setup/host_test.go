package setup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// scripted is a Commander that runs nothing: it notes what it was to run, and
// answers as it was told. The real programs run on machines of their own
// (agent/systemtest/machine).
type scripted struct {
	have   []string          // programs that are found
	answer map[string]string // what a command line prints
	fail   map[string]error
	ran    []string
	effect func(line string)
}

func (s *scripted) Find(name string) (string, error) {
	if slices.Contains(s.have, name) {
		return "/usr/bin/" + name, nil
	}
	return "", fmt.Errorf("%s: not found", name)
}

func (s *scripted) Run(_ context.Context, name string, args ...string) (string, error) {
	line := strings.Join(append([]string{name}, args...), " ")
	s.ran = append(s.ran, line)
	if s.effect != nil {
		s.effect(line)
	}
	return s.answer[line], s.fail[line]
}

// newHost is a host in a directory of its own.
func newHost(t *testing.T, s *scripted) (*Host, *bytes.Buffer) {
	t.Helper()
	var out bytes.Buffer
	h := &Host{Root: t.TempDir(), Command: s, Out: &out}
	for path, text := range map[string]string{
		"/proc/sys/net/ipv4/ip_forward": "0\n", "/proc/sys/net/core/rmem_default": "212992\n",
		"/etc/group": "root:x:0:\n", "/usr/share/bash-completion/completions/others": "",
	} {
		write(t, h, path, text)
	}
	return h, &out
}

func write(t *testing.T, h *Host, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(h.path(path)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(h.path(path), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, h *Host, path string) string {
	t.Helper()
	data, err := os.ReadFile(h.path(path))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// tree lists a host's files with their modes and contents.
func tree(t *testing.T, h *Host) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.Walk(h.Root, func(path string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		text := info.Mode().String()
		switch {
		case info.Mode()&os.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			text += " " + target
		case info.Mode().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text += " " + string(data)
		}
		all[strings.TrimPrefix(path, h.Root)] = text
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// installing is an install on h with Consul on the PATH and no package missing.
func installing(t *testing.T, self string) Install {
	t.Helper()
	return Install{
		Self: self, StateDir: "/var/lib/socketplane", DaemonJSON: "/etc/docker/daemon.json",
		Missing:    func() []string { return nil },
		Completion: func(shell string) ([]byte, error) { return []byte("# " + shell + "\n"), nil },
	}
}

func uninstalling(self string) Uninstall {
	nothing := func(context.Context) (string, error) { return "", nil }
	return Uninstall{
		Self: self, StateDir: "/var/lib/socketplane", DaemonJSON: "/etc/docker/daemon.json", LogFile: "/var/log/socketplane.log",
		Socket: "/run/socketplane/socketplane.sock", Plugin: "/run/docker/plugins/socketplane.sock",
		Attached: func() (int, error) { return 0, nil }, Leave: nothing, StopAgent: nothing, DockerNetworks: nothing, DockerRuntime: nothing, Network: nothing,
		CNI: func() (string, error) { return "", nil },
	}
}

// All steps against a directory: twice is once, and uninstall gives it back.
func TestInstallAndUninstall(t *testing.T) {
	s := &scripted{
		have:   []string{"consul", "systemctl", "groupadd"},
		answer: map[string]string{"/usr/bin/consul version": "Consul v1.22.5\nRevision x\n", "systemctl show -p LoadState --value socketplane.service": "loaded\n"},
	}
	h, out := newHost(t, s)
	write(t, h, "/run/systemd/system/x", "")
	before := tree(t, h)
	self := filepath.Join(t.TempDir(), "socketplane")
	if err := os.WriteFile(self, []byte("program"), 0o755); err != nil {
		t.Fatal(err)
	}
	s.effect = func(line string) {
		switch line {
		case "groupadd --system socketplane":
			write(t, h, "/etc/group", "root:x:0:\nsocketplane:x:999:\n")
		case "groupdel socketplane":
			write(t, h, "/etc/group", "root:x:0:\n")
		case "systemctl enable socketplane.service":
			s.answer["systemctl is-enabled socketplane.service"] = "enabled\n"
		}
	}
	ctx := t.Context()
	if err := h.Run(ctx, "install", h.Install(installing(t, self))); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		Program: "program", netavarkDir + "/socketplane-netavark": "program", "/proc/sys/net/ipv4/ip_forward": "1\n", "/proc/sys/net/core/rmem_default": "8388608\n",
		ConfigFile: ConfigText, unitDir + "/" + AgentUnit: agentUnit,
	} {
		if got := read(t, h, path); got != want {
			t.Errorf("%s is %q, want %q", path, got, want)
		}
	}
	once, ran := tree(t, h), len(s.ran)
	if err := h.Run(ctx, "install", h.Install(installing(t, self))); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(once, tree(t, h)); diff != "" {
		t.Errorf("the second install changed something:\n%s", diff)
	}
	if diff := cmp.Diff([]string{"ovs-vsctl --timeout=10 show", "/usr/bin/consul version", "systemctl is-enabled socketplane.service"}, s.ran[ran:]); diff != "" {
		t.Errorf("the second install ran (-want +got):\n%s", diff)
	}
	un := uninstalling(self)
	un.Purge = true
	if err := h.Run(ctx, "uninstall", h.Uninstall(un)); err != nil {
		t.Fatal(err)
	}
	after := tree(t, h)
	for path := range after { // empty directories of the system stay
		if _, there := before[path]; !there && strings.HasPrefix(after[path], "d") {
			delete(after, path)
		}
	}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("uninstall left (-before +after):\n%s\n%s", diff, out)
	}
}

// A switch that does not run is started, by whatever starts services here.
func TestSwitchIsStarted(t *testing.T) {
	const ask = "ovs-vsctl --timeout=10 show"
	for _, systemd := range []bool{true, false} {
		s := &scripted{fail: map[string]error{ask: errors.New("no answer")}}
		h, out := newHost(t, s)
		start := "service openvswitch-switch start"
		if systemd {
			write(t, h, "/run/systemd/system/x", "")
			start = "systemctl enable --now openvswitch-switch"
		}
		s.effect = func(line string) {
			if line == start {
				delete(s.fail, ask)
			}
		}
		if err := h.Run(t.Context(), "install", []Step{h.openvswitch()}); err != nil {
			t.Errorf("systemd %v: %v", systemd, err)
		}
		if !strings.Contains(out.String(), "started") {
			t.Errorf("systemd %v: it said %q", systemd, out)
		}
	}
}

// A step that fails ends the run, says how to go on, and the next run goes on there.
func TestRunGoesOnAfterAFailure(t *testing.T) {
	s := &scripted{have: []string{"apt-get"}, fail: map[string]error{}}
	h, _ := newHost(t, s)
	missing := []string{"openvswitch-switch"}
	in := installing(t, "/usr/bin/socketplane")
	in.Missing = func() []string { return missing }
	const update = "apt-get -q -o DPkg::Lock::Timeout=300 update"
	s.fail[update] = errors.New("apt-get failed (exit status 100): no mirror")
	err := h.Run(t.Context(), "install", h.Install(in))
	want := "packages: apt-get failed (exit status 100): no mirror; see that apt-get can reach its mirrors, or install them by hand, then run it again; it continues there"
	if err == nil || err.Error() != want {
		t.Fatalf("got %v\nwant %s", err, want)
	}
	delete(s.fail, update)
	s.effect = func(line string) {
		if strings.HasSuffix(line, "install openvswitch-switch") {
			missing = nil
		}
		if line == "groupadd --system socketplane" {
			write(t, h, "/etc/group", "root:x:0:\nsocketplane:x:999:\n")
		}
	}
	if err := h.Run(t.Context(), "install", h.Install(in)); err != nil {
		t.Fatal(err)
	}
	r, err := h.record(in.StateDir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"openvswitch-switch"}, r.Packages); diff != "" {
		t.Error(diff)
	}
	install := s.ran[slices.IndexFunc(s.ran, func(l string) bool { return strings.HasSuffix(l, "install openvswitch-switch") })]
	for _, option := range []string{"--force-confold", "DPkg::Lock::Timeout", "-y"} {
		if !strings.Contains(install, option) {
			t.Errorf("%q lacks %s", install, option)
		}
	}
	if _, err := os.Stat(h.path(Program)); err == nil {
		t.Error("the program of a package was installed beside it")
	}
}

func TestUninstallRefusesWhileAttached(t *testing.T) {
	s := &scripted{}
	h, _ := newHost(t, s)
	before := tree(t, h)
	un := uninstalling("/usr/local/bin/socketplane")
	un.Attached = func() (int, error) { return 2, nil }
	un.StopAgent = func(context.Context) (string, error) { t.Error("the agent was stopped"); return "", nil }
	err := h.Run(t.Context(), "uninstall", h.Uninstall(un))
	if err == nil || !strings.Contains(err.Error(), "--force") {
		t.Fatalf("got %v", err)
	}
	if diff := cmp.Diff(before, tree(t, h)); diff != "" {
		t.Error(diff)
	}
}

// A state directory that may hold more than the state is never removed.
func TestPurgeSparesOthersDirectories(t *testing.T) {
	h, out := newHost(t, &scripted{})
	write(t, h, "/srv/database", "others'")
	un := uninstalling("/usr/local/bin/socketplane")
	un.StateDir, un.Purge = "/srv", true
	if err := h.Run(t.Context(), "uninstall", h.Uninstall(un)); err != nil {
		t.Fatal(err)
	}
	if got := read(t, h, "/srv/database"); got != "others'" || !strings.Contains(out.String(), "by hand") {
		t.Errorf("%q; it said %s", got, out)
	}
}

// What was there before we came stays when we go.
func TestUninstallLeavesWhatWasThere(t *testing.T) {
	s := &scripted{have: []string{"consul"}, answer: map[string]string{"/usr/bin/consul version": "Consul v1.20.0\n"}}
	h, _ := newHost(t, s)
	write(t, h, "/etc/docker/daemon.json", "{}\n")
	write(t, h, "/etc/group", "socketplane:x:5:\n")
	write(t, h, ConsulProgram, "somebody's own")
	write(t, h, "/proc/sys/net/ipv4/ip_forward", "1\n")
	self := filepath.Join(t.TempDir(), "socketplane")
	if err := os.WriteFile(self, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := h.Run(t.Context(), "install", h.Install(installing(t, self))); err != nil {
		t.Fatal(err)
	}
	write(t, h, ConfigFile, "[host]\nname = \"mine\"\n")
	if err := h.Run(t.Context(), "uninstall", h.Uninstall(uninstalling(self))); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"/etc/docker/daemon.json": "{}\n", "/etc/group": "socketplane:x:5:\n", ConsulProgram: "somebody's own",
		"/proc/sys/net/ipv4/ip_forward": "1\n", ConfigFile: "[host]\nname = \"mine\"\n",
	} {
		if got := read(t, h, path); got != want {
			t.Errorf("%s is %q, want %q", path, got, want)
		}
	}
}
