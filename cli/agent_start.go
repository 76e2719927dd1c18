package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/spf13/cobra"
)

// startDeadline bounds the time until a started agent answers.
const startDeadline = 30 * time.Second

func (a *app) agentStartCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "start",
		Short: "Start the agent in the background",
		Long: `Starts the agent and returns when it answers. If systemd knows socketplane.service, it
starts that unit. Otherwise it starts a background process, with its pid in agent.pid
beside the socket and its log in log.file (/var/log/socketplane.log). An agent that
already runs is left alone.`,
		Example: `  socketplane agent start
  socketplane agent start --consul http://127.0.0.1:8500`,
		Args: args(0, 0),
	}
	agentFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s, _, err := a.agentSettings(cmd)
		if err != nil {
			return err
		}
		return a.startAgent(cmd.Context(), s, a.agentRunArgs(cmd))
	}
	return cmd
}

// startAgent starts an agent with args unless one is running.
func (a *app) startAgent(ctx context.Context, s Settings, args []string) error {
	if pid, err := answeringPID(ctx, s); err != nil {
		return err
	} else if pid != 0 {
		_, err := fmt.Fprintf(a.stdout, "the agent already runs (pid %d)\n", pid)
		return err
	}
	if underSystemd() {
		if len(args) > 2 { // more than "agent run"
			return usagef("systemd runs the agent on this host, so flags have no effect; write them to %s", DefaultConfigFile)
		}
		if err := a.systemctl("start"); err != nil {
			return err
		}
		pid, err := waitReachable(ctx, s, nil)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(a.stdout, "the agent runs (pid %d)\n", pid)
		return err
	}
	pid, err := spawnAgent(ctx, s, args)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.stdout, "the agent runs (pid %d), its log is %s\n", pid, s.Log.File)
	return err
}

// spawnAgent starts a background process, waits until it answers, and returns its pid.
func spawnAgent(ctx context.Context, s Settings, args []string) (int, error) {
	if err := os.MkdirAll(filepath.Dir(s.API.Socket), 0o755); err != nil {
		return 0, fmt.Errorf("directory of the socket: %w", err)
	}
	// The lock on the pid file makes a concurrent start wait for this one and then find
	// its agent.
	pidf, err := os.OpenFile(pidFile(s), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return 0, fmt.Errorf("pid file: %w", err)
	}
	defer pidf.Close() //nolint:errcheck // gives the lock back; what was written was checked
	if err := syscall.Flock(int(pidf.Fd()), syscall.LOCK_EX); err != nil {
		return 0, fmt.Errorf("lock pid file %s: %w", pidf.Name(), err)
	}
	if pid, err := answeringPID(ctx, s); err != nil || pid != 0 {
		return pid, err
	}
	log, err := os.OpenFile(s.Log.File, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return 0, fmt.Errorf("log file: %w", err)
	}
	defer log.Close() //nolint:errcheck // the agent writes it, not we
	begin, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, fmt.Errorf("log file %s: %w", s.Log.File, err)
	}
	exe, err := os.Executable()
	if err != nil {
		return 0, fmt.Errorf("path of this program: %w", err)
	}
	cmd := exec.Command(exe)
	cmd.Args = append([]string{"socketplane"}, args...)
	cmd.Dir = "/" // do not keep a file system busy
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // outlive the terminal
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("start the agent: %w", err)
	}
	if err := writePID(pidf, cmd.Process.Pid); err != nil {
		return 0, err
	}
	died := make(chan struct{})
	go func() {
		defer close(died)
		_ = cmd.Wait() // its log contains the reason
	}()
	pid, err := waitReachable(ctx, s, died)
	if errors.Is(err, errDied) {
		return 0, fmt.Errorf("the agent did not start: %s", lastWords(s.Log.File, begin))
	}
	return pid, err
}

func writePID(f *os.File, pid int) error {
	if err := f.Truncate(0); err != nil {
		return fmt.Errorf("pid file %s: %w", f.Name(), err)
	}
	if _, err := f.WriteAt(fmt.Appendf(nil, "%d\n", pid), 0); err != nil {
		return fmt.Errorf("pid file %s: %w", f.Name(), err)
	}
	return nil
}

var errDied = errors.New("the agent has ended")

// waitReachable waits until the agent answers, and returns its pid. It returns errDied
// when died is closed.
func waitReachable(ctx context.Context, s Settings, died <-chan struct{}) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, startDeadline)
	defer cancel()
	client := api.NewClient(s.API.Socket)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		// Before it has its place, the agent answers briefly without a tunnel address, and
		// then stops and serves the socket again. Accept such an answer only if it reports
		// a problem.
		if st, err := client.Status(ctx); err == nil && (st.Host.VTEP != "" || len(st.Problems) > 0) {
			return st.PID, nil
		}
		select {
		case <-died:
			return 0, errDied
		case <-ctx.Done():
			return 0, fmt.Errorf("the agent has not answered on %s within %s; see: socketplane agent logs", s.API.Socket, startDeadline)
		case <-tick.C:
		}
	}
}

// lastWords returns the last line of the log after begin, without our own prefix.
func lastWords(file string, begin int64) string {
	f, err := os.Open(file)
	if err != nil {
		return "its log " + file + " cannot be read"
	}
	defer f.Close() //nolint:errcheck // only read from
	const most = 64 << 10
	if info, err := f.Stat(); err == nil {
		begin = max(begin, info.Size()-most)
	}
	data, err := io.ReadAll(io.NewSectionReader(f, begin, most))
	lines := strings.Split(string(bytes.TrimSpace(data)), "\n")
	last := strings.TrimPrefix(lines[len(lines)-1], "socketplane: ")
	if err != nil || last == "" {
		return "it left no word in " + file
	}
	return last
}
