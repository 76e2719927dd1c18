package firewall

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// insideEnv marks the test process that runs in a network namespace of its own.
const insideEnv = "FIREWALL_TEST_INSIDE"

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
func do(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// in runs f on a thread in the named namespace, as the user uid; the thread ends
// with it. Empty: the host's.
func in[T any](t testing.TB, ns string, uid int, f func() (T, error)) (T, error) {
	t.Helper()
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		var r result
		defer func() { done <- r }()
		if ns != "" {
			fd, err := os.Open("/run/netns/" + ns)
			if err != nil {
				r.err = err
				return
			}
			defer fd.Close()
			if r.err = unix.Setns(int(fd.Fd()), unix.CLONE_NEWNET); r.err != nil {
				return
			}
		}
		if uid != 0 {
			// The system call itself: of this thread alone.
			if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); errno != 0 {
				r.err = errno
				return
			}
		}
		r.value, r.err = f()
	}()
	r := <-done
	return r.value, r.err
}
