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

// agentProcess is an agent that runs on this host.
type agentProcess struct {
	pid  int
	proc *os.Process // holds a pidfd, so the pid cannot become another's
	args []string    // its arguments, without the program's name
}

// pidFile is where a background agent's pid is kept.
func pidFile(s Settings) string { return filepath.Join(filepath.Dir(s.API.Socket), "agent.pid") }

// findAgent finds the running agent: the one that answers on the socket, else
// the one in the pid file. It gives nil when there is none.
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
			return nil, nil // half-written or foreign: names nobody
		}
	}
	return agentByPID(pid)
}

// answeringPID asks the socket; 0 means that nobody answers.
func answeringPID(ctx context.Context, s Settings) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	st, err := api.NewClient(s.API.Socket).Status(ctx)
	switch {
	case err == nil:
		return st.PID, nil
	case errors.Is(err, context.DeadlineExceeded): // it hangs; the pid file may know it
		return 0, nil
	case errors.Is(err, api.ErrUnreachable) && !closedToUs(s.API.Socket):
		return 0, nil
	}
	return 0, err
}

// closedToUs says whether the socket is there and may not be used by us.
func closedToUs(socket string) bool {
	const writable = 2 // W_OK, access(2)
	return errors.Is(syscall.Access(socket, writable), fs.ErrPermission)
}

// agentByPID gives the agent of that pid, or nil when the pid is not an agent.
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

// isAgentRun says whether args are those of `agent run`, wherever global flags stand.
func isAgentRun(args []string) bool {
	i := slices.Index(args, "agent")
	return i >= 0 && i+1 < len(args) && args[i+1] == "run"
}

// alive says whether the process still does anything; a zombie does not.
func (p *agentProcess) alive() bool {
	if err := p.proc.Signal(syscall.Signal(0)); err != nil && !errors.Is(err, syscall.EPERM) {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.pid))
	if err != nil {
		return false
	}
	// The name, in parentheses, may hold anything: the state follows the last one. proc(5)
	_, rest, ok := strings.Cut(string(stat[max(0, bytes.LastIndexByte(stat, ')')):]), ") ")
	return ok && !strings.HasPrefix(rest, "Z") && !strings.HasPrefix(rest, "X")
}

// stop asks the process to end and waits for it.
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
