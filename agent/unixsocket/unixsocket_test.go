package unixsocket_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/socketplane/socketplane/agent/unixsocket"
)

const group = 54321

func mustListen(t *testing.T, path string) net.Listener {
	t.Helper()
	l, err := unixsocket.Listen(path, group)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestGroupFromTheFirstMoment: only its own group is ever let in, also while the
// socket is made, whatever the umask is.
func TestGroupFromTheFirstMoment(t *testing.T) {
	for _, mask := range []int{0, 0o022, 0o077} {
		t.Run(fmt.Sprintf("umask %03o", mask), func(t *testing.T) {
			defer syscall.Umask(syscall.Umask(mask))
			path := filepath.Join(t.TempDir(), "s")
			stop, seen := make(chan struct{}), map[string]bool{}
			var beside sync.WaitGroup
			beside.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					var stat syscall.Stat_t
					if syscall.Lstat(path, &stat) == nil {
						seen[fmt.Sprintf("%04o group %d", stat.Mode&0o7777, stat.Gid)] = true
					}
				}
			})
			for range 300 {
				_ = mustListen(t, path).Close()
			}
			l := mustListen(t, path)
			defer l.Close()
			var stat syscall.Stat_t
			if err := syscall.Lstat(path, &stat); err != nil || stat.Mode&0o7777 != 0o660 || stat.Gid != group {
				t.Errorf("mode %04o, group %d, %v", stat.Mode&0o7777, stat.Gid, err)
			}
			close(stop)
			beside.Wait()
			narrow := []string{fmt.Sprintf("0600 group %d", os.Getgid()), fmt.Sprintf("0600 group %d", group), fmt.Sprintf("0660 group %d", group)}
			for got := range seen {
				if !slices.Contains(narrow, got) {
					t.Errorf("the socket was seen with mode %s", got)
				}
			}
		})
	}
}

func TestWhatIsInTheWay(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "s")
	l := mustListen(t, path)
	if _, err := unixsocket.Listen(path, group); !errors.Is(err, unixsocket.ErrAnswers) || !strings.Contains(err.Error(), path) {
		t.Errorf("answered by another: %v", err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = l.Close()
	_ = mustListen(t, path).Close() // in place of what was left over
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := unixsocket.Listen(path, group); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("a file: %v", err)
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != "x" {
		t.Errorf("the file is %q, %v", data, err)
	}
}
