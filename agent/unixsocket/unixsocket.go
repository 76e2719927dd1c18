// Package unixsocket listens on unix sockets that only root and one group may
// connect to, from the first moment on.
package unixsocket

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrAnswers says that another process listens on the socket.
var ErrAnswers = errors.New("another process answers on it")

// KeepGroup leaves the socket to this process's group.
const KeepGroup = -1

const (
	modeAtFirst = 0o600 // until the group is right
	mode        = 0o660
)

// Listen listens on the socket at path, whose file has mode 0660 and a group.
// A socket that nobody answers on is left over and is replaced; the directory is
// made if need be.
func Listen(path string, group int) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("directory of the socket: %w", err)
	}
	if conn, err := net.Dial("unix", path); err == nil {
		_ = conn.Close()
		return nil, fmt.Errorf("listen on %s: %w", path, ErrAnswers)
	}
	if fi, err := os.Lstat(path); err == nil {
		if fi.Mode()&os.ModeSocket == 0 {
			return nil, fmt.Errorf("%s is in the way: it is no socket", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("remove a socket left over: %w", err)
		}
	}
	config := net.ListenConfig{Control: private}
	l, err := config.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if err := open(path, group); err != nil {
		return nil, errors.Join(fmt.Errorf("owner and mode of %s: %w", path, err), l.Close())
	}
	return l, nil
}

// private gives a socket that is not bound yet a mode: bind(2) makes its file with
// it, less the umask. To set the umask instead would change what the process's
// other threads make, and two that set it at once leave it wrong.
func private(_, _ string, conn syscall.RawConn) error {
	var err error
	if failed := conn.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), modeAtFirst) }); failed != nil {
		return failed
	}
	return err
}

// open lets the group in. It holds the file that it looked at, and follows no link
// that somebody put there instead.
func open(path string, group int) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd) //nolint:errcheck // only a handle
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return err
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return errors.New("it is no socket any more")
	}
	if group != KeepGroup {
		if err := unix.Fchownat(fd, "", -1, group, unix.AT_EMPTY_PATH); err != nil {
			return err
		}
	}
	return os.Chmod("/proc/self/fd/"+strconv.Itoa(fd), mode)
}
