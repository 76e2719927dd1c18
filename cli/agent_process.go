package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/socketplane/socketplane/agent/api"
)

// agentProcess is a running agent on this host.
type agentProcess struct {
	pid  int
	proc *os.Process // holds a pidfd, so the pid cannot be reused
	args []string    // its arguments, without the program's name
}

// pidFile returns the path of the pid file of a background agent.
func pidFile(s Settings) string { return filepath.Join(filepath.Dir(s.API.Socket), "agent.pid") }

// findAgent finds the running agent: the one that answers on the socket, or else the one
// in the pid file. It returns nil if there is none.
func findAgent(ctx context.Context, s Settings) (*agentProcess, error) {
	pid, err := answeringPID(ctx, s)
	if err != nil {
		return nil, err
	}
	if pid == 0 {
		data, err := os.ReadFile(pidFile(s))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("pid file: %w", err)
		}
		if pid, err = strconv.Atoi(strings.TrimSpace(string(data))); err != nil || pid <= 1 {
			return nil, nil // half-written or foreign: identifies no process
		}
	}
	return agentByPID(pid)
}

// answeringPID returns the pid of the agent that answers on the socket, or 0 if none does.
func answeringPID(ctx context.Context, s Settings) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	st, err := api.NewClient(s.API.Socket).Status(ctx)
	switch {
	case err == nil:
		return st.PID, nil
	case errors.Is(err, context.DeadlineExceeded): // it hangs; the pid file may have its pid
		return 0, nil
	case errors.Is(err, api.ErrUnreachable) && !closedToUs(s.API.Socket):
		return 0, nil
	}
	return 0, err
}

// closedToUs reports whether the socket exists but this process may not write to it.
func closedToUs(socket string) bool {
	const writable = 2 // W_OK, access(2)
	return errors.Is(syscall.Access(socket, writable), fs.ErrPermission)
}

// agentByPID returns the agent with that pid, or nil if the process is not an agent.
func agentByPID(pid int) (*agentProcess, error) {
	proc, err := os.FindProcess(pid)
	if err != nil {
		return nil, nil //nolint:nilerr // no such process
	}
	p := &agentProcess{pid: pid, proc: proc}
	if !p.alive() {
		return nil, nil
	}
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return nil, nil //nolint:nilerr // it has just ended
	}
	argv := strings.Split(string(bytes.TrimRight(data, "\x00")), "\x00")
	if filepath.Base(argv[0]) != "socketplane" || !isAgentRun(argv[1:]) {
		return nil, nil
	}
	p.args = argv[1:]
	return p, nil
}

// isAgentRun reports whether args are those of `agent run`, with global flags anywhere.
func isAgentRun(args []string) bool {
	i := slices.Index(args, "agent")
	return i >= 0 && i+1 < len(args) && args[i+1] == "run"
}

// alive reports whether the process is running. A zombie is not.
func (p *agentProcess) alive() bool {
	if err := p.proc.Signal(syscall.Signal(0)); err != nil && !errors.Is(err, syscall.EPERM) {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.pid))
	if err != nil {
		return false
	}
	// The name in parentheses may contain anything. The state follows the last
	// parenthesis, see proc(5).
	_, rest, ok := strings.Cut(string(stat[max(0, bytes.LastIndexByte(stat, ')')):]), ") ")
	return ok && !strings.HasPrefix(rest, "Z") && !strings.HasPrefix(rest, "X")
}

// stop terminates the process and waits until it has ended.
func (p *agentProcess) stop(ctx context.Context, limit time.Duration) error {
	if err := p.proc.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop the agent (pid %d): %w", p.pid, err)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for p.alive() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("the agent (pid %d) has not ended within %s; end it with: kill -9 %d", p.pid, limit, p.pid)
		case <-tick.C:
		}
	}
	return nil
}
