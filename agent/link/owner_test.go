package link

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestOwnedBy: a network namespace is his who made the user namespace that it belongs
// to, and what was looked at is what is held.
func TestOwnedBy(t *testing.T) {
	l := newLinks(t)
	const user = 65533
	sleeper := func(cred *syscall.Credential, argv ...string) string {
		cmd := exec.Command(argv[0], append(argv[1:], "sleep", "infinity")...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred, Pdeathsig: unix.SIGKILL}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
		path := fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid)
		deadline := time.Now().Add(10 * time.Second)
		for {
			argv, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", cmd.Process.Pid))
			if err == nil && strings.HasPrefix(string(argv), "sleep") {
				return path
			}
			if time.Now().After(deadline) {
				t.Fatalf("%q does not sleep: %q, %v", cmd.Args, argv, err)
			}
			time.Sleep(time.Millisecond)
		}
	}
	his := sleeper(&syscall.Credential{Uid: user, Gid: user}, "unshare", "--user", "--net")
	roots := sleeper(nil, "unshare", "--net")
	for _, c := range []struct {
		path string
		uid  uint32
		ok   bool
	}{{his, user, true}, {his, user - 1, false}, {roots, user, false}, {roots, 0, true}, {"/proc/self/ns/net", user, false}} {
		held, release, err := l.OwnedBy(c.path, c.uid)
		if (err == nil) != c.ok || err != nil && !errors.Is(err, ErrNotOwner) {
			t.Errorf("%s for %d: %v", c.path, c.uid, err)
		}
		if err != nil {
			continue
		}
		want, err1 := NSInode(c.path)
		got, err2 := NSInode(held)
		if got != want || err1 != nil || err2 != nil {
			t.Errorf("%s holds %v, not %v of %s: %v, %v", held, got, want, c.path, err1, err2)
		}
		release()
	}

	// The path leads elsewhere a moment later.
	link := t.TempDir() + "/ns"
	if err := os.Symlink(his, link); err != nil {
		t.Fatal(err)
	}
	held, release, err := l.OwnedBy(link, user)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if err := errors.Join(os.Remove(link), os.Symlink(roots, link)); err != nil {
		t.Fatal(err)
	}
	want, err1 := NSInode(his)
	if got, err2 := NSInode(held); got != want || err1 != nil || err2 != nil {
		t.Errorf("after the path was changed: %v, not %v: %v, %v", got, want, err1, err2)
	}
	if _, _, err := l.OwnedBy("/etc/passwd", user); !errors.Is(err, ErrNotNamespace) {
		t.Errorf("a file: %v", err)
	}
}
