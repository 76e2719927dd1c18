package cli

import (
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestSocketsOpenTogether: sockets that open at the same time are never open to
// strangers, and the modes of what else the process makes meanwhile stay right.
func TestSocketsOpenTogether(t *testing.T) {
	before := syscall.Umask(0o022)
	defer syscall.Umask(before)
	dir := t.TempDir()
	paths := []string{filepath.Join(dir, "a"), filepath.Join(dir, "b")}
	stop := make(chan struct{})
	var beside sync.WaitGroup
	beside.Go(func() { strangerConnects(t, stop, paths) })
	beside.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			name := filepath.Join(dir, "d"+strconv.Itoa(i))
			if err := os.Mkdir(name, 0o755); err != nil {
				t.Error(err)
				return
			}
			fi, err := os.Stat(name)
			if err != nil || fi.Mode().Perm() != 0o755 {
				t.Errorf("a directory made meanwhile has mode %v, want 0755 (%v)", fi.Mode(), err)
				return
			}
			_ = os.Remove(name)
		}
	})
	var open sync.WaitGroup
	for _, path := range paths {
		open.Go(func() {
			for range 400 {
				l, err := openSocket(path, os.Getgid())
				if err != nil {
					t.Error(err)
					return
				}
				if fi, err := os.Lstat(path); err != nil || fi.Mode().Perm() != 0o660 {
					t.Errorf("the socket has mode %v, want 0660 (%v)", fi.Mode(), err)
				}
				_ = l.Close()
			}
		})
	}
	open.Wait()
	close(stop)
	beside.Wait()
	if mask := syscall.Umask(0o022); mask != 0o022 {
		t.Errorf("the umask is %#o afterwards, want 022", mask)
	}
}

// strangerConnects tries all the time to connect as user nobody.
func strangerConnects(t *testing.T, stop <-chan struct{}, paths []string) {
	runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
	const nobody = 65534
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0); errno != 0 {
		t.Errorf("give up groups: %v", errno)
		return
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, nobody, nobody, nobody); errno != 0 {
		t.Errorf("become another group: %v", errno)
		return
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); errno != 0 {
		t.Errorf("become another user: %v", errno)
		return
	}
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		default:
		}
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Error(err)
			return
		}
		path := paths[i%len(paths)]
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
		_ = unix.Close(fd)
		if err == nil {
			t.Errorf("a stranger was let in by %s", path)
			return
		}
	}
}
