package cli

import "github.com/spf13/cobra"

func (a *app) agentRestartCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "restart",
		Short: "Stop and start the agent",
		Long: `Stops the agent if it runs, and starts it with the same flags, unless you give others.
Containers keep their network meanwhile.`,
		Example: `  socketplane agent restart`,
		Args:    args(0, 0),
	}
	agentFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s, _, err := a.agentSettings(cmd)
		if err != nil {
			return err // before anything is stopped
		}
		former, err := a.stopAgent(cmd.Context(), s)
		if err != nil {
			return err
		}
		args := a.agentRunArgs(cmd)
		if len(args) == 2 && former != nil { // only "agent run"
			args = former
		}
		return a.startAgent(cmd.Context(), s, args)
	}
	return cmd
}
