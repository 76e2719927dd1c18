// Package unixsocket listens on unix sockets to which only root and one group can
// connect, from their creation on.
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

// ErrAnswers reports that another process listens on the socket.
var ErrAnswers = errors.New("another process answers on it")

// KeepGroup leaves the socket to this process's group.
const KeepGroup = -1

const (
	modeAtFirst = 0o600 // until the group is set
	mode        = 0o660
)

// Listen listens on a socket at path whose file has mode 0660 and the given group. It
// replaces a leftover socket on which no process listens, and creates a missing
// directory. It fails with ErrAnswers if another process listens on the socket.
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

// private sets the mode of a socket before bind(2), which creates the file with that
// mode, less the umask. Setting the umask instead would affect files that other threads
// create, and two concurrent changes could leave it wrong.
func private(_, _ string, conn syscall.RawConn) error {
	var err error
	if failed := conn.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), modeAtFirst) }); failed != nil {
		return failed
	}
	return err
}

// open gives the group access to the socket. It keeps the checked file open, and does not
// follow a symbolic link that replaced it.
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
