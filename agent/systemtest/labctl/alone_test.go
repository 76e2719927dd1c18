package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/socketplane/socketplane/agent/systemtest/lab"
)

const (
	repository = "../../.."
	// aloneEnv is set where a test runs with namespaces of its own.
	aloneEnv = "LABCTL_TEST_ALONE"
)

// alone runs the calling test once more, with processes, mounts and names of network
// namespaces of its own and as a lab of its own, so that all that is left there is
// what the lab left: other labs and tests may run on this machine. It says whether
// this is that run; in the other one the test is over then.
func alone(t *testing.T, limit time.Duration) bool {
	t.Helper()
	if os.Getenv(aloneEnv) != "" {
		return true
	}
	name := "t" + strconv.Itoa(os.Getpid()%1e6)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	// The names of others' namespaces go: a copy of a name keeps its namespace alive.
	const script = `awk '$3 == "nsfs" { print $2 }' /proc/self/mounts | sort -r | while read -r m; do umount -l "$m"; done
		mkdir -p /run/netns && mount -t tmpfs none /run/netns && exec tini -- "$@"`
	cmd := exec.CommandContext(ctx, "unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc",
		"sh", "-c", script, "sh", os.Args[0], "-test.v", "-test.count=1", "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), aloneEnv+"=yes", lab.InstanceEnv+"="+name, "TMPDIR="+t.TempDir())
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Errorf("%v", err)
		down := exec.Command(buildLabctl(t), "down")
		down.Env = append(os.Environ(), lab.InstanceEnv+"="+name)
		if out, err := down.CombinedOutput(); err != nil {
			t.Errorf("down: %v: %s", err, out)
		}
	}
	return false
}

// buildLabctl builds the program to where it finds the module it is of.
func buildLabctl(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join(repository, "bin", "labctl-"+strconv.Itoa(os.Getpid())))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(path) })
	build := exec.Command("go", "build", "-o", path, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "TMPDIR=/tmp")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v: %s", err, out)
	}
	return path
}

// machines is the kind of traces that other labs leave too, while they are up.
const machines = "machine's"

// traces is all that a lab can leave on a machine: processes, mounts, namespaces,
// cgroups, files; and when no other lab is up, links, directories that were missing,
// and the kernel's setting.
func traces(t *testing.T) []string {
	t.Helper()
	var all []string
	add := func(kind string, names ...string) {
		for _, n := range names {
			all = append(all, kind+" "+n)
		}
	}
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range processes {
		if argv, err := os.ReadFile(p); err == nil { // it may have ended just now
			add("process", fmt.Sprintf("%s %q", p, argv))
		}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	add("mount", strings.Split(string(mounts), "\n")...)
	add("namespace", list(t, "/run/netns/*")...)
	add("cgroup", list(t, "/sys/fs/cgroup/"+lab.Prefix+"*", "/sys/fs/cgroup/*/"+lab.Prefix+"*")...)
	add("file", list(t, lab.StateDir+"*", filepath.Join(os.TempDir(), "*"))...)
	if others := list(t, "/var/lib/socketplane-lab*/lab.json"); len(others) == 0 {
		add(machines, list(t, "/etc/*", "/opt/*", "/var/lib/*", "/usr/local/*", "/sys/class/net/*")...)
		rmem, err := os.ReadFile("/proc/sys/net/core/rmem_default")
		if err != nil {
			t.Fatal(err)
		}
		add(machines, "rmem_default "+string(rmem))
	}
	slices.Sort(all)
	return all
}

func list(t *testing.T, patterns ...string) []string {
	t.Helper()
	var all []string
	for _, p := range patterns {
		found, err := filepath.Glob(p)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, found...)
	}
	return all
}

// leftNothing waits until the machine is as it was: the kernel buries some things a
// little after their last user.
func leftNothing(t *testing.T, before []string) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		now, before := traces(t), before
		machine := func(line string) bool { return strings.HasPrefix(line, machines) }
		if !slices.ContainsFunc(now, machine) || !slices.ContainsFunc(before, machine) {
			now, before = slices.DeleteFunc(now, machine), slices.DeleteFunc(slices.Clone(before), machine)
		}
		more := slices.DeleteFunc(slices.Clone(now), func(line string) bool { return slices.Contains(before, line) })
		less := slices.DeleteFunc(slices.Clone(before), func(line string) bool { return slices.Contains(now, line) })
		if len(more) == 0 && len(less) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("there is more now:\n%s\nand less:\n%s", strings.Join(more, "\n"), strings.Join(less, "\n"))
		}
		<-tick.C
	}
}
