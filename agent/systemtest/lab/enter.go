package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Enter runs a command on a host, or in the network namespace of ul or out. The command
// has the caller's terminal, descriptors 0 to 2 and environment, except for the host's
// PATH and HOME. Enter returns the exit status of the command, or 128+n if signal n ended
// it.
//
// Enter locks the calling goroutine to its thread and moves the thread into the host
// permanently. Only a program's main goroutine that exits afterwards may call it.
func Enter(host string, argv []string) (int, error) {
	if len(argv) == 0 {
		return 0, errors.New("no command")
	}
	spaces, err := spacesOf(host)
	if err != nil {
		return 0, err
	}
	// Namespaces and the parent-death signal belong to a thread.
	runtime.LockOSThread()
	foreground := ownsTerminal()
	if err := join(spaces); err != nil {
		return 0, fmt.Errorf("enter %q: %w", host, err)
	}
	env := enterEnv(os.Environ())
	if err := os.Setenv("PATH", hostPath); err != nil {
		return 0, err
	}
	setpriv, err := exec.LookPath("setpriv") // in the host, where this thread is now
	if err != nil {
		return 0, err
	}
	if _, err := exec.LookPath(argv[0]); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", host, err)
		if errors.Is(err, fs.ErrPermission) {
			return 126, nil
		}
		return 127, nil
	}

	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2)
	// Use setpriv, because SysProcAttr.Pdeathsig considers a parent in another pid
	// namespace dead.
	args := append([]string{"setpriv", "--pdeathsig", "KILL", "--"}, argv...)
	p, err := os.StartProcess(setpriv, args, &os.ProcAttr{
		Env:   env,
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
	})
	if err != nil {
		return 0, fmt.Errorf("%s: %w", host, err)
	}
	go func() {
		for s := range signals {
			// The command gets the signals of terminal keys directly.
			if foreground && (s == unix.SIGINT || s == unix.SIGQUIT) {
				continue
			}
			_ = p.Signal(s) // it may have just ended
		}
	}()
	state, err := p.Wait()
	if err != nil {
		return 0, err
	}
	if ws, ok := state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal()), nil
	}
	return state.ExitCode(), nil
}

// spacesOf opens a host's namespaces in the order in which to join them. The mount
// namespace is last, because all paths are the machine's.
func spacesOf(host string) ([]int, error) {
	paths := []string{namespacePath(host)}
	if host != Underlay && host != OutsideHost {
		pid, err := findInit(host)
		if err != nil {
			return nil, err
		}
		paths = nil
		for _, kind := range []string{"ipc", "uts", "net", "pid", "mnt"} {
			paths = append(paths, fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
		}
	}
	var fds []int
	for _, p := range paths {
		fd, err := unix.Open(p, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.ENOENT) {
			return nil, ErrDown
		}
		if err != nil {
			return nil, fmt.Errorf("open %s: %w", p, err)
		}
		fds = append(fds, fd)
	}
	return fds, nil
}

func join(spaces []int) error {
	// A thread that shares its working directory cannot change its mount namespace.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return err
	}
	for _, fd := range spaces {
		if err := unix.Setns(fd, 0); err != nil {
			return err
		}
	}
	return nil
}

// ownsTerminal reports whether keys on the terminal send signals to this process group.
func ownsTerminal() bool {
	tty, err := os.Open("/dev/tty")
	if err != nil {
		return false
	}
	defer tty.Close()
	group, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// enterEnv returns the caller's environment with the host's PATH and HOME. It removes
// variables that would point Docker's client and others outside of the host.
func enterEnv(caller []string) []string {
	env := []string{"PATH=" + hostPath, "HOME=/root"}
	for _, entry := range caller {
		name, _, _ := strings.Cut(entry, "=")
		switch name {
		case "PATH", "HOME", "DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "OVS_RUNDIR", "OVS_DBDIR", "CONSUL_HTTP_ADDR":
		default:
			env = append(env, entry)
		}
	}
	return env
}
