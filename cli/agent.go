package cli

import (
	"log/slog"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func (a *app) agentCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "agent",
		Short: "Run, start, stop and look at this host's agent",
		Long: `The agent keeps this host's bridge, tunnels, flows and endpoints as they should be.
When it is away nothing changes for running containers.`,
		Example: `  socketplane agent start --consul http://127.0.0.1:8500
  socketplane agent status
  socketplane agent logs -f`,
	})
	cmd.AddCommand(a.agentRunCommand(), a.agentStartCommand(), a.agentStopCommand(), a.agentRestartCommand(),
		a.agentStatusCommand(), a.agentLogsCommand())
	return cmd
}

func (a *app) agentRunCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run the agent in the foreground",
		Long: `Runs the agent until SIGINT or SIGTERM; the systemd unit runs this. Settings come,
the later winning, from what is built in, from the settings file, from variables
(SOCKETPLANE_ and the key, such as SOCKETPLANE_CONSUL_ADDRESS) and from flags.`,
		Example: `  socketplane agent run
  socketplane agent run --consul http://127.0.0.1:8500 --iface eth1
  socketplane agent run --print-config`,
		Args: args(0, 0),
	}
	agentFlags(cmd)
	printConfig := cmd.Flags().Bool("print-config", false, "show every setting with where it came from, and end")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s, from, err := a.agentSettings(cmd)
		if err != nil {
			return err
		}
		if *printConfig {
			return printSettings(a.stdout, s, from)
		}
		ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
		defer stop()
		return runAgent(ctx, s, a.logger(s))
	}
	return cmd
}

// agentFlags gives cmd the flags of settingTable, except those that are global.
func agentFlags(cmd *cobra.Command) {
	for _, e := range settingTable() {
		if e.agentFlag() {
			cmd.Flags().String(e.flag, "", e.help)
		}
	}
}

// agentSettings loads the settings with the flags of `agent run` or `proxy` on top.
func (a *app) agentSettings(cmd *cobra.Command) (Settings, origins, error) {
	src, err := a.sources()
	if err != nil {
		return Settings{}, nil, err
	}
	for _, e := range settingTable() {
		if !e.agentFlag() && !e.proxyFlag() {
			continue
		}
		if f := cmd.Flags().Lookup(e.flag); f != nil && f.Changed {
			src.flags[e.key] = f.Value.String()
		}
	}
	return loadSettings(src)
}

// logger writes to standard error, which the journal or the log file keeps.
func (a *app) logger(s Settings) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(s.Log.Level)); err != nil {
		level = slog.LevelInfo // checked when the settings were loaded
	}
	return slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: level}))
}

// agentRunArgs is what `agent run` must be given to run with the flags that
// cmd was given.
func (a *app) agentRunArgs(cmd *cobra.Command) []string {
	args := []string{"agent", "run"}
	if a.configFile != "" {
		args = append(args, "--config", a.configFile)
	}
	if a.socket != "" {
		args = append(args, "--socket", a.socket)
	}
	for _, e := range settingTable() {
		if f := cmd.Flags().Lookup(e.flag); e.agentFlag() && f != nil && f.Changed {
			args = append(args, "--"+e.flag, f.Value.String())
		}
	}
	return args
}
