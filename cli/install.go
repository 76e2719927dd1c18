package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/cli/setup"
)

// installFlags contains the flags of install.
type installFlags struct {
	bootstrap  bool
	join       []string
	iface      string
	tokenFile  string
	from       string
	unattended bool
}

// joins reports whether the host should join a cluster, either at an address or the one of
// the token.
func (f installFlags) joins() bool { return len(f.join) > 0 || f.tokenFile != "" && !f.bootstrap }

// enters reports whether the host should be in a cluster after the installation.
func (f installFlags) enters() bool { return f.bootstrap || f.joins() }

func (a *app) installCommand() *cobra.Command {
	var f installFlags
	cmd := &cobra.Command{
		Use:   "install [--bootstrap | --join ADDR...] [--iface IF] [--token-file FILE] [--from DIR] [--unattended]",
		Short: "Set up this host",
		Long: `Sets up this host (Debian, Ubuntu): Open vSwitch, Docker and iptables from the
distribution, Consul, this program in /usr/local/bin, kernel settings, the group
socketplane, the settings file, the systemd units, shell completion. Then it starts the
agent and, on request, bootstraps or joins a cluster. It keeps what is already there.
Each step says what it does. After a failure, run it again and it continues.

Consul is the one on the PATH, or the one in --from DIR (the program consul, or its
release archive), or release ` + setup.ConsulRelease().Version + `, downloaded and verified by its checksum.
BOOTSTRAP=true in the environment means --bootstrap.

With --token-file and neither --bootstrap nor --join, the host finds the cluster by mDNS
on the segment of the tunnel interface.

With --unattended, a host that joins waits up to ` + joinPatience.String() + ` for the cluster, so
hosts that are created at the same time may start in any order.`,
		Example: `  sudo socketplane install --bootstrap
  sudo socketplane install --join 10.254.101.21 --token-file /root/token
  sudo socketplane install --token-file /root/token
  sudo socketplane install --from /media/usb`,
		Args:                  args(0, 0),
		DisableFlagsInUseLine: true,
	}
	cmd.Flags().BoolVar(&f.bootstrap, "bootstrap", false, "bootstrap a cluster on this host")
	cmd.Flags().StringArrayVar(&f.join, "join", nil, "address of a host of the cluster to join; may be repeated")
	cmd.Flags().StringVar(&f.iface, "iface", "", "interface that carries the tunnels")
	cmd.Flags().StringVar(&f.tokenFile, "token-file", "", "file that contains the cluster's token")
	cmd.Flags().StringVar(&f.from, "from", "", "directory to take Consul from; nothing is downloaded then")
	cmd.Flags().BoolVar(&f.unattended, "unattended", false, "ask nothing")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := a.checkInstall(&f); err != nil {
			return err
		}
		return a.install(cmd.Context(), f)
	}
	return cmd
}

// checkInstall completes the flags and rejects invalid ones before anything is changed.
func (a *app) checkInstall(f *installFlags) error {
	if text, ok := a.getenv("BOOTSTRAP"); ok && text != "" {
		on, err := strconv.ParseBool(text)
		if err != nil {
			return usagef("BOOTSTRAP=%q in the environment is not true or false", text)
		}
		f.bootstrap = f.bootstrap || on
	}
	if f.bootstrap && len(f.join) > 0 {
		return usagef("--bootstrap creates a cluster and --join joins one; use only one of them")
	}
	if f.iface != "" {
		if err := checkInterface(f.iface); err != nil {
			return usagef("--iface: %w", err)
		}
	}
	for _, file := range []*string{&f.tokenFile, &f.from} {
		if *file == "" {
			continue
		}
		if _, err := os.Stat(*file); err != nil {
			return usagef("%w", err)
		}
		abs, err := filepath.Abs(*file)
		if err != nil {
			return err
		}
		*file = abs
	}
	if (a.configFile != "" || a.socket != "") && a.setupHost().Systemd() {
		return usagef("the systemd unit reads only %s; write the settings there instead of using --config and --socket", DefaultConfigFile)
	}
	for _, argv := range clusterCommands(*f) {
		if err := a.hasCommand(argv); err != nil {
			return err
		}
	}
	if os.Geteuid() != 0 {
		return setup.ErrNotRoot
	}
	return nil
}

func (a *app) install(ctx context.Context, f installFlags) error {
	s, err := a.settings()
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("path of this program: %w", err)
	}
	host := a.setupHost()
	steps := host.Install(setup.Install{
		Self: self, StateDir: s.Host.StateDir, DaemonJSON: s.Docker.DaemonJSON,
		Missing: func() []string { return missingPackages(ctx, s.Docker.Enabled) },
		Consul: setup.Consul{
			From: f.from, Release: setup.ConsulRelease(), Client: http.DefaultClient,
			Needed: f.enters(), Given: s.Consul.Address,
		},
		Completion: a.completion,
	})
	if err := a.confirmPackages(f, missingPackages(ctx, s.Docker.Enabled)); err != nil {
		return err
	}
	steps = append(steps, setup.Step{
		Name: "agent", Remedy: "see: socketplane agent logs",
		Do: func(ctx context.Context) (string, error) { return "", a.startThis(ctx, s) },
	})
	steps = append(steps, a.clusterSteps(f)...)
	if err := host.Run(ctx, "install", steps); err != nil {
		return fmt.Errorf("install: %w", err)
	}
	if !f.enters() {
		fmt.Fprintln(a.stdout, "this host is ready; begin a cluster with: socketplane cluster bootstrap, or join one: socketplane cluster join ADDR")
	}
	return nil
}

// startThis makes sure that an agent of this version is running.
func (a *app) startThis(ctx context.Context, s Settings) error {
	if st, err := api.NewClient(s.API.Socket).Status(ctx); err == nil && st.Version != Version() {
		if _, err := a.stopAgent(ctx, s); err != nil {
			return err
		}
	}
	return a.startAgent(ctx, s, append([]string{"agent", "run"}, a.globalFlags()...))
}

// globalFlags returns the global flags of this command.
func (a *app) globalFlags() []string {
	var flags []string
	if a.configFile != "" {
		flags = append(flags, "--config", a.configFile)
	}
	if a.socket != "" {
		flags = append(flags, "--socket", a.socket)
	}
	return flags
}

// clusterCommands returns the cluster commands that f stands for.
func clusterCommands(f installFlags) [][]string {
	var commands [][]string
	if f.iface != "" {
		commands = append(commands, []string{"cluster", "bind", f.iface})
	}
	var token []string
	if f.tokenFile != "" {
		token = []string{"--token-file", f.tokenFile}
	}
	if f.bootstrap {
		commands = append(commands, slices.Concat([]string{"cluster", "bootstrap"}, token))
	}
	if f.joins() {
		commands = append(commands, slices.Concat([]string{"cluster", "join"}, token, []string{"--"}, f.join))
	}
	return commands
}

func (a *app) clusterSteps(f installFlags) []setup.Step {
	var steps []setup.Step
	for _, argv := range clusterCommands(f) {
		do := func(ctx context.Context) error { return a.command(ctx, argv) }
		if f.unattended && argv[1] == "join" {
			do = func(ctx context.Context) error {
				return a.awaitCluster(ctx, func() error { return a.command(ctx, argv) })
			}
		}
		steps = append(steps, setup.Step{
			Name: argv[0] + " " + argv[1], Remedy: "fix that",
			Do: func(ctx context.Context) (string, error) { return "", do(ctx) },
		})
	}
	return steps
}

// joinPatience is how long an unattended host waits for the cluster that it should join.
// The first host may still be installing packages.
const joinPatience = 10 * time.Minute

// awaitCluster repeats join while no cluster answers, and prints the reason when it
// changes. It returns all other errors at once, because they do not go away by themselves.
func (a *app) awaitCluster(ctx context.Context, join func() error) error {
	ctx, cancel := context.WithTimeout(ctx, joinPatience)
	defer cancel()
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	said := ""
	for {
		err := join()
		if api.CodeOf(err) != api.CodeUnavailable {
			return err
		}
		if text := oneLine(err.Error()); text != said {
			said = text
			fmt.Fprintln(a.stdout, "  waiting: "+text)
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return fmt.Errorf("not within %s: %w", joinPatience, err)
			}
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// command runs another command of this program with the same global flags.
func (a *app) command(ctx context.Context, argv []string) error {
	if err := a.hasCommand(argv); err != nil {
		return err
	}
	root := a.anotherRoot()
	root.SetArgs(append(a.globalFlags(), argv...))
	return root.ExecuteContext(ctx)
}

// anotherRoot returns a second command line with its own flags, because defining a flag
// sets its variable.
func (a *app) anotherRoot() *cobra.Command {
	another := *a
	return another.rootCommand()
}

// hasCommand returns an error if this version does not have the command.
func (a *app) hasCommand(argv []string) error {
	found, _, err := a.anotherRoot().Find(argv)
	if err != nil || found.Name() != argv[1] {
		return fmt.Errorf("this version of socketplane has no command %q", argv[0]+" "+argv[1])
	}
	return nil
}

// setupHost returns this machine.
func (a *app) setupHost() *setup.Host {
	return &setup.Host{
		Command: setup.Programs{Env: []string{"DEBIAN_FRONTEND=noninteractive", "NEEDRESTART_MODE=a"}},
		Out:     a.stdout,
	}
}

// confirmPackages asks before packages are installed, if standard input is a terminal.
func (a *app) confirmPackages(f installFlags, missing []string) error {
	if f.unattended || len(missing) == 0 || !isTerminal(a.stdin) {
		return nil
	}
	fmt.Fprintf(a.stdout, "missing: %s; install them with apt-get? [Y/n] ", strings.Join(missing, " "))
	var answer string
	_, _ = fmt.Fscanln(a.stdin, &answer) // Enter alone means yes
	switch answer {
	case "", "y", "Y", "yes":
		return nil
	}
	return errors.New("install: nothing was done")
}

// completion returns the completion script of a shell.
func (a *app) completion(shell string) ([]byte, error) {
	root := a.anotherRoot()
	var b bytes.Buffer
	var err error
	switch shell {
	case "bash":
		err = root.GenBashCompletionV2(&b, true)
	case "zsh":
		err = root.GenZshCompletion(&b)
	case "fish":
		err = root.GenFishCompletion(&b, true)
	}
	return b.Bytes(), err
}

// missingPackages lists the packages that contain the missing programs.
func missingPackages(ctx context.Context, docker bool) []string {
	var list []string
	for _, d := range checkDeps(ctx) {
		if d.OK || d.apt == "" || d.dockers && !docker || slices.Contains(list, d.apt) {
			continue
		}
		list = append(list, d.apt)
	}
	return list
}
