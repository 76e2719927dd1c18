package cli

import (
	"log/slog"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/socketplane/socketplane/agent/calm"
)

func (a *app) agentCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "agent",
		Short: "Run, start, stop and inspect this host's agent",
		Long: `The agent keeps this host's bridge, tunnels, flows and endpoints in the desired state.
Running containers keep their network while it does not run.`,
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
		Long: `Runs the agent until SIGINT or SIGTERM; the systemd unit runs this. Flags override
environment variables (SOCKETPLANE_ and the key, such as SOCKETPLANE_CONSUL_ADDRESS),
which override the settings file, which overrides the defaults.`,
		Example: `  socketplane agent run
  socketplane agent run --consul http://127.0.0.1:8500 --iface eth1
  socketplane agent run --print-config`,
		Args: args(0, 0),
	}
	agentFlags(cmd)
	printConfig := cmd.Flags().Bool("print-config", false, "print every setting and its source, and exit")
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

// agentFlags adds the flags of settingTable to cmd, except the global ones.
func agentFlags(cmd *cobra.Command) {
	for _, e := range settingTable() {
		if e.agentFlag() {
			cmd.Flags().String(e.flag, "", e.help)
		}
	}
}

// agentSettings loads the settings. The flags of `agent run` or `proxy` override the other
// sources.
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

// logger returns a logger that writes to standard error, which goes to the journal or the
// log file.
func (a *app) logger(s Settings) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(s.Log.Level)); err != nil {
		level = slog.LevelInfo // already checked by loadSettings
	}
	return slog.New(calm.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: level})))
}

// agentRunArgs returns the arguments for `agent run` that correspond to the flags of cmd.
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
