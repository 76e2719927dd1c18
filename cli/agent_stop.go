package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"
)

// stopDeadline bounds the time that an agent takes to end.
const stopDeadline = 15 * time.Second

func (a *app) agentStopCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "stop",
		Short: "Stop the agent",
		Long: `Stops the agent and returns when it has ended. Containers keep their network. It is no
error if no agent runs.`,
		Example: `  socketplane agent stop`,
		Args:    args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.settings()
			if err != nil {
				return err
			}
			_, err = a.stopAgent(cmd.Context(), s)
			return err
		},
	}
}

// stopAgent stops the agent and returns the arguments with which it ran. They are nil if
// no agent ran or if systemd ran it.
func (a *app) stopAgent(ctx context.Context, s Settings) ([]string, error) {
	p, err := findAgent(ctx, s)
	if err != nil {
		return nil, err
	}
	if p == nil {
		_, err := fmt.Fprintln(a.stdout, "the agent does not run")
		return nil, err
	}
	bySystemd := underSystemd()
	if bySystemd {
		// This also ends a start that systemd keeps retrying.
		if err := a.systemctl("stop"); err != nil {
			return nil, err
		}
	}
	if p.alive() { // systemd does not stop an agent that was started by hand
		if err := p.stop(ctx, stopDeadline); err != nil {
			return nil, err
		}
	}
	if err := os.Remove(pidFile(s)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("pid file: %w", err)
	}
	if bySystemd {
		p.args = nil
	}
	_, err = fmt.Fprintf(a.stdout, "the agent (pid %d) has ended\n", p.pid)
	return p.args, err
}
