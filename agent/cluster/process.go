package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process is a running Consul: a child of this agent, or one that a killed agent left
// behind.
type process struct {
	proc *os.Process   // holds a pidfd, which protects against reuse of the PID
	done chan struct{} // closed when it has exited
}

// findConsul returns the path of the consul program: on the PATH, else where an
// installation puts it.
func findConsul(stateDir string) (string, error) {
	if path, err := exec.LookPath("consul"); err == nil {
		return filepath.Abs(path)
	}
	path := filepath.Join(stateDir, "bin", "consul")
	if _, err := exec.LookPath(path); err != nil {
		return "", fmt.Errorf("there is no program consul on the PATH, nor %s; install it, or set consul.address to one that runs elsewhere", path)
	}
	return path, nil
}

// startConsul starts a new Consul. Its output goes to a file rather than a pipe, so that
// it survives a killed agent: after a crash of the agent, the host's containers must not
// wait for a quorum.
func startConsul(binary, config, log, pidFile string) (*process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("log of Consul: %w", err)
	}
	defer out.Close() //nolint:errcheck // Consul writes it, not we
	cmd := exec.Command(binary, "agent", "-config-file="+config)
	// Consul does not inherit the agent's environment, which may contain a token.
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + filepath.Dir(config), "LANG=C.UTF-8"}
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // signals of the terminal reach only the agent
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start Consul: %w", err)
	}
	p := &process{proc: cmd.Process, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		_ = cmd.Wait() // Consul's log shows how it exited
	}()
	if err := writeSmall(pidFile, []byte(strconv.Itoa(cmd.Process.Pid)+"\n")); err != nil {
		p.stop(0)
		return nil, err
	}
	return p, nil
}

// runningConsul returns the Consul that the PID file names, or nil if there is none. It
// checks that the arguments of the process name config.
func runningConsul(config, pidFile string) *process {
	data, err := readSmall(pidFile)
	if err != nil {
		return nil
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || pid <= 1 {
		return nil
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil
	}
	proc, err := os.FindProcess(pid)
	argv, readErr := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || readErr != nil || !isConsul(argv, config) {
		_ = unix.Close(fd)
		return nil
	}
	p := &process{proc: proc, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		defer unix.Close(fd) //nolint:errcheck // only polled
		for {
			// The pidfd becomes readable when the process exits, see pidfd_open(2).
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
			if n > 0 || err != nil && !errors.Is(err, unix.EINTR) {
				return
			}
		}
	}()
	return p
}

func isConsul(cmdline []byte, config string) bool {
	argv := bytes.Split(bytes.TrimRight(cmdline, "\x00"), []byte{0})
	return len(argv) == 3 && string(argv[1]) == "agent" && string(argv[2]) == "-config-file="+config
}

// stop sends SIGTERM, waits for up to grace, and then kills the process.
func (p *process) stop(grace time.Duration) {
	if grace > 0 {
		_ = p.proc.Signal(syscall.SIGTERM) // an error means that it has exited
		ctx, cancel := context.WithTimeout(context.Background(), grace)
		defer cancel()
		select {
		case <-p.done:
			return
		case <-ctx.Done():
		}
	}
	_ = p.proc.Kill()
	<-p.done
}
