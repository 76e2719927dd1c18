package link

import (
	"fmt"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestInhabited: a namespace lives by its processes; a file that keeps it proves
// nothing.
func TestInhabited(t *testing.T) {
	l := newLinks(t)
	cmd := exec.Command("sleep", "100")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	end := func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }
	t.Cleanup(end)
	path := fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid)
	kept, err := openNamespace(path) // as a mounted file would
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(kept.Close)

	v := veth(t, l, t.Name())
	want := func(when string, want bool) {
		t.Helper()
		if got, err := l.Inhabited(v.Host); err != nil || got != want {
			t.Errorf("%s: %v, %v; want %v", when, got, err, want)
		}
	}
	want("before the pair is made", false)
	if err := l.EnsureVeth(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	want("while both ends are on the host", true)
	v.NetNS, v.IfName = path, "eth0"
	if err := l.EnsureVeth(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	want("with its process", true)
	end()
	if s, err := l.Inspect(v.Host); err != nil || !s.Exists {
		t.Fatalf("the pair went with the process: %+v, %v", s, err)
	}
	want("after its process", false)
}
