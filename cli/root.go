// Package cli owns the command line: the settings, one file per subcommand, the output,
// and the exit codes. It assembles the agent for `agent run`, and otherwise only calls it
// through the api. It never makes decisions about networks.
package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/spf13/cobra"
)

// app contains what every command needs.
type app struct {
	stdin          *os.File
	stdout, stderr io.Writer
	getenv         func(string) (string, bool)
	hostname       func() (string, error)

	// Global flags.
	configFile string
	socket     string
	debug      bool
}

// Main runs one command line, without the program's name, and returns its exit code.
func Main(ctx context.Context, args []string) int {
	a := &app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, getenv: os.LookupEnv, hostname: os.Hostname}
	return a.run(ctx, args)
}

func (a *app) run(ctx context.Context, args []string) int {
	root := a.rootCommand()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err != nil && strings.HasPrefix(err.Error(), "unknown command ") { // from cobra's own commands
		err = usageError{err}
	}
	if err != nil {
		report(a.stderr, err, a.debug)
	}
	return exitCode(err)
}

func (a *app) rootCommand() *cobra.Command {
	root := group(&cobra.Command{
		Use:   "socketplane",
		Short: "One container network over many hosts",
		Long: `SocketPlane joins the hosts of a cluster into one container network: Open vSwitch
carries the packets in VXLAN, Consul carries the state, and a container started
on any host reaches every other container of its network by its own address.

Exit codes: 0 done, 1 failed, 2 used wrongly, 3 the agent cannot be reached;
run exits like docker run, with 125 if it is not the container that failed.`,
		Example: `  socketplane agent start
  socketplane network create web 10.6.0.0/16
  socketplane run -n web -d --name shop nginx
  socketplane info shop`,
	})
	root.SilenceErrors = true
	root.SilenceUsage = true
	root.TraverseChildren = true
	root.CompletionOptions.HiddenDefaultCmd = false
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%w; see: %s --help", err, cmd.CommandPath())
	})
	flags := root.PersistentFlags()
	flags.StringVar(&a.configFile, "config", "", "settings file (default "+DefaultConfigFile+")")
	flags.StringVar(&a.socket, "socket", "", "unix socket of the agent (default "+DefaultSocket+")")
	flags.BoolVar(&a.debug, "debug", false, "show what caused an error")

	root.SetHelpCommand(helpCommand(root))
	root.AddCommand(
		a.agentCommand(), a.clusterCommand(), a.networkCommand(),
		a.runCommand(), a.startCommand(), a.stopCommand(), a.restartCommand(), a.rmCommand(), a.attachCommand(),
		a.infoCommand(), a.connectCommand(), a.disconnectCommand(), a.proxyCommand(),
		a.cniCommand(), a.installCommand(), a.uninstallCommand(), a.depsCommand(), a.versionCommand(),
	)
	return root
}

// group makes cmd a parent of subcommands. Alone it prints its help, and an unknown
// subcommand is an error.
func group(cmd *cobra.Command) *cobra.Command {
	cmd.DisableSuggestions = true
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return unknownCommand(cmd, args[0])
		}
		return nil
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	return cmd
}

// helpCommand is like cobra's help command, but fails for an unknown command.
func helpCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:     "help [COMMAND]",
		Short:   "Show how a command is used",
		Long:    `Shows how a command is used, as COMMAND --help does.`,
		Example: `  socketplane help network create`,
		RunE: func(_ *cobra.Command, args []string) error {
			cmd, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				return usagef("there is no command %q; see: socketplane --help", strings.Join(args, " "))
			}
			cmd.InitDefaultHelpFlag()
			return cmd.Help()
		},
	}
}

// args checks the number of arguments. least and most are inclusive; most -1 means no
// limit.
func args(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return usagef("too few arguments; usage: %s", usageLine(cmd))
		case most >= 0 && len(args) > most:
			return usagef("too many arguments, %q is one; usage: %s", args[most], usageLine(cmd))
		}
		return nil
	}
}

func usageLine(cmd *cobra.Command) string {
	return strings.TrimSuffix(cmd.UseLine(), " [flags]")
}

// sources returns the sources of settings from the global flags and the environment.
func (a *app) sources() (sources, error) {
	hostname, err := a.hostname()
	if err != nil {
		return sources{}, fmt.Errorf("name of this host: %w", err)
	}
	src := sources{hostname: hostname, file: DefaultConfigFile, getenv: a.getenv, flags: map[string]string{}}
	if named, ok := a.getenv("SOCKETPLANE_CONFIG"); ok && named != "" {
		src.file, src.fileMust = named, true
	}
	if a.configFile != "" {
		src.file, src.fileMust = a.configFile, true
	}
	if a.socket != "" {
		src.flags["api.socket"] = a.socket
	}
	return src, nil
}

// settings loads the settings that a client needs.
func (a *app) settings() (Settings, error) {
	src, err := a.sources()
	if err != nil {
		return Settings{}, err
	}
	src.client = true
	s, _, err := loadSettings(src)
	return s, err
}

// service returns a client of the agent. It sends nothing before the first call.
func (a *app) service() (api.Service, error) {
	s, err := a.settings()
	if err != nil {
		return nil, err
	}
	return api.NewClient(s.API.Socket), nil
}
