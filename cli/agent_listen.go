package cli

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/socketplane/socketplane/agent/unixsocket"
)

// socketGroup is the group whose members may call the agent.
const socketGroup = "socketplane"

// netListener is net.Listener. The alias avoids an import of package net in agent_run.go.
type netListener = net.Listener

// dying bounds how long the locks of a killed agent may outlive it. They are held until
// the kernel has cleaned up the process, and until a child that it was just starting has
// executed another program.
const dying = 2 * time.Second

// patiently calls lock again while it fails with held, for at most dying.
func patiently(held error, lock func() error) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(dying); ; <-tick.C {
		if err := lock(); !errors.Is(err, held) || time.Now().After(end) {
			return err
		}
	}
}

// lockBridge locks the integration bridge for this process, independently of state
// directory and socket. Only root can write to the directory and open the lock file, so no
// one else can take the lock or appear to hold it. The file name includes the network
// namespace, because the bridge belongs to it.
func lockBridge(dir, bridge string) (unlock func(), err error) {
	if err := errors.Join(rootsDir(filepath.Dir(dir)), rootsDir(dir)); err != nil {
		return nil, fmt.Errorf("lock bridge %s: %w", bridge, err)
	}
	var ns syscall.Stat_t
	if err := syscall.Stat("/proc/self/ns/net", &ns); err != nil {
		return nil, fmt.Errorf("lock bridge %s: this network namespace: %w", bridge, err)
	}
	path := filepath.Join(dir, fmt.Sprintf("%s.%d.lock", bridge, ns.Ino))
	unlock, f, err := lockFile(path)
	if err != nil && f != nil {
		_ = f.Close()
	}
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, fmt.Errorf("another agent runs on this host with bridge %s; see: socketplane agent status", bridge)
	}
	if err != nil {
		return nil, fmt.Errorf("lock bridge %s: %w", bridge, err)
	}
	return unlock, nil
}

// rootsDir creates a directory if it does not exist. It fails if anyone except the user of
// this process, which is root, can write to the directory.
func rootsDir(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	fi, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	owner, _ := fi.Sys().(*syscall.Stat_t)
	if !fi.IsDir() || owner == nil || int(owner.Uid) != os.Geteuid() || fi.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s is not a directory that root alone can write; remove it, or run: chown root %[1]s && chmod go-w %[1]s", dir)
	}
	return nil
}

// lockFile locks a file, which it creates if necessary. The kernel releases the lock when
// the process ends in any way. If another process holds the lock, lockFile returns
// EWOULDBLOCK and the file open for reading.
func lockFile(path string) (unlock func(), f *os.File, err error) {
	f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, nil, err
	}
	err = patiently(syscall.EWOULDBLOCK, func() error { return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) })
	if err != nil {
		return nil, f, err
	}
	return func() { _ = f.Close() }, f, nil
}

// listen opens the agent's socket with mode 0660, and with group socketplane if that group
// exists.
func listen(path string) (net.Listener, error) {
	group := unixsocket.KeepGroup
	if g, err := user.LookupGroup(socketGroup); err == nil {
		if group, err = strconv.Atoi(g.Gid); err != nil {
			return nil, fmt.Errorf("group %s: %w", socketGroup, err)
		}
	}
	return openSocket(path, group)
}

// openSocket listens on a unix socket with mode 0660 for root and a group.
func openSocket(path string, group int) (net.Listener, error) {
	l, err := unixsocket.Listen(path, group)
	if errors.Is(err, unixsocket.ErrAnswers) {
		return nil, fmt.Errorf("another process answers on %s; stop it first (the agent with: socketplane agent stop)", path)
	}
	return l, err
}

// lockState locks the state directory for this process.
func lockState(dir string) (unlock func(), err error) {
	path := filepath.Join(dir, "agent.lock")
	unlock, f, err := lockFile(path)
	if f == nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	if err != nil {
		who := make([]byte, 16)
		n, _ := f.ReadAt(who, 0) // empty if it cannot be read
		_ = f.Close()
		return nil, fmt.Errorf("another agent (pid %s) runs on this host with state directory %s; see: socketplane agent status",
			strings.TrimSpace(string(who[:n])), dir)
	}
	pid := []byte(strconv.Itoa(os.Getpid()) + "\n")
	if err := errors.Join(f.Truncate(0), writeAt(f, pid)); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return unlock, nil
}

func writeAt(f *os.File, b []byte) error {
	_, err := f.WriteAt(b, 0)
	return err
}
