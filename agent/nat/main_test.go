package nat

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// insideEnv marks the test process that runs in a network namespace of its own.
const insideEnv = "NAT_TEST_INSIDE"

// TestMain runs the tests once more, in a new network namespace that plays the
// host: nothing of the machine's own rules is touched.
func TestMain(m *testing.M) {
	if os.Getenv(insideEnv) != "" {
		os.Exit(m.Run())
	}
	runtime.LockOSThread() // Pdeathsig is tied to the thread that starts the process
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL}
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "these tests need root, for network namespaces:", err)
		os.Exit(1)
	}
}

// do runs a program and gives what it printed.
func do(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// backends are the iptables variants that a host may have.
var backends = []string{"nft", "legacy"}

// newNAT makes a NAT on a backend, and what runs that backend's programs.
func newNAT(t *testing.T, backend string) *NAT {
	t.Helper()
	n := &NAT{log: slog.New(slog.DiscardHandler)}
	for _, p := range []struct {
		path *string
		name string
	}{{&n.cmd.savePath, "save"}, {&n.cmd.restorePath, "restore"}} {
		path, err := exec.LookPath("iptables-" + backend + "-" + p.name)
		if err != nil {
			t.Fatal(err)
		}
		*p.path = path
	}
	// Both backends see the same packets: a test leaves none of its rules.
	t.Cleanup(func() {
		for _, table := range []string{"filter", "nat", "raw"} {
			for _, args := range [][]string{{"-F"}, {"-X"}} {
				_ = exec.Command("iptables-"+backend, append([]string{"-w", "-t", table}, args...)...).Run()
			}
		}
		_ = exec.Command("iptables-"+backend, "-w", "-P", "FORWARD", "ACCEPT").Run()
	})
	return n
}

// saved is what iptables-save prints, without comments and counters.
func saved(t *testing.T, n *NAT) string {
	t.Helper()
	var lines []string
	for line := range strings.Lines(do(t, n.cmd.savePath)) {
		if before, _, found := strings.Cut(line, "["); found {
			line = before + "\n"
		}
		if !strings.HasPrefix(line, "#") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}
