package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

func (a *app) agentLogsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "logs",
		Short: "Show the agent's log",
		Long:  `Shows the end of the agent's log: the journal if systemd runs the agent, else log.file.`,
		Example: `  socketplane agent logs -n 100
  socketplane agent logs -f`,
		Args: args(0, 0),
	}
	follow := cmd.Flags().BoolP("follow", "f", false, "follow the log as it grows")
	lines := cmd.Flags().IntP("lines", "n", 50, "number of lines to show")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *lines < 0 {
			return usagef("--lines %d is negative", *lines)
		}
		s, err := a.settings()
		if err != nil {
			return err
		}
		ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
		defer stop()
		if underSystemd() {
			return a.journal(ctx, *lines, *follow)
		}
		t := &tail{path: s.Log.File, out: a.stdout}
		defer t.close()
		if err := t.last(*lines); err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("there is no log %s; the agent has not been started in the background here", s.Log.File)
			}
			return fmt.Errorf("log: %w", err)
		}
		if *follow {
			return t.follow(ctx)
		}
		return nil
	}
	return cmd
}

func (a *app) journal(ctx context.Context, lines int, follow bool) error {
	argv := []string{"-u", unitName, "-n", strconv.Itoa(lines), "--no-pager"}
	if follow {
		argv = append(argv, "-f")
	}
	cmd := exec.CommandContext(ctx, "journalctl", argv...)
	cmd.Stdout, cmd.Stderr = a.stdout, a.stderr
	if err := cmd.Run(); err != nil && ctx.Err() == nil {
		return fmt.Errorf("journalctl: %w", err)
	}
	return nil
}

// tail prints the end of a file that grows and may be rotated.
type tail struct {
	path string
	out  io.Writer
	f    *os.File
}

func (t *tail) close() {
	if t.f != nil {
		_ = t.f.Close() // only read from
	}
}

// last prints the last n lines and leaves the offset at the end of the file.
func (t *tail) last(n int) error {
	f, err := os.Open(t.path)
	if err != nil {
		return err
	}
	t.f = f
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	// The newline at the end of the file ends the last line and does not start another.
	const block = 32 << 10
	buf := make([]byte, block)
	begin, found := size, 0
	for begin > 0 && found <= n {
		at := max(0, begin-block)
		part := buf[:begin-at]
		if _, err := f.ReadAt(part, at); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		for i := len(part) - 1; i >= 0 && found <= n; i-- {
			if part[i] == '\n' && at+int64(i) != size-1 {
				if found++; found == n {
					begin = at + int64(i) + 1
					return t.copyFrom(begin)
				}
			}
		}
		begin = at
	}
	if n == 0 {
		begin = size
	}
	return t.copyFrom(begin)
}

func (t *tail) copyFrom(offset int64) error {
	if _, err := t.f.Seek(offset, io.SeekStart); err != nil {
		return err
	}
	_, err := io.Copy(t.out, t.f)
	return err
}

// follow prints what is appended to the file until ctx ends. It prints a replaced or
// truncated file from its start.
func (t *tail) follow(ctx context.Context) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if _, err := io.Copy(t.out, t.f); err != nil {
			return fmt.Errorf("log: %w", err)
		}
		if err := t.reopen(); err != nil {
			return fmt.Errorf("log: %w", err)
		}
	}
}

func (t *tail) reopen() error {
	now, err := os.Stat(t.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the file is being rotated
	}
	if err != nil {
		return err
	}
	open, err := t.f.Stat()
	if err != nil {
		return err
	}
	if os.SameFile(now, open) {
		at, err := t.f.Seek(0, io.SeekCurrent)
		if err != nil {
			return err
		}
		if at > open.Size() {
			_, err = t.f.Seek(0, io.SeekStart)
		}
		return err
	}
	f, err := os.Open(t.path)
	if err != nil {
		return err
	}
	_ = t.f.Close() // only read from
	t.f = f
	return nil
}
