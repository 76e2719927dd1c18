package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/socketplane/socketplane/agent/cluster"
	"github.com/socketplane/socketplane/agent/cni"
	"github.com/socketplane/socketplane/agent/docker"
	"github.com/socketplane/socketplane/agent/docker/driver"
	"github.com/socketplane/socketplane/agent/firewall"
	"github.com/socketplane/socketplane/agent/link"
	"github.com/socketplane/socketplane/agent/nat"
	"github.com/socketplane/socketplane/cli/setup"
	"github.com/socketplane/socketplane/ovs"
)

func (a *app) uninstallCommand() *cobra.Command {
	var force, purge bool
	cmd := &cobra.Command{
		Use:   "uninstall [--force] [--purge]",
		Short: "Undo install, and restore this host",
		Long: `Undoes install and what the agent did. It removes the units, the program and its links,
Docker's runtime and our Docker networks, the bridge, interfaces, iptables and nftables
rules, and restores the kernel settings. A host in a cluster leaves it first. It refuses
while containers are attached, and when the host cannot leave its cluster. Packages
stay, and without --purge so do settings and state.`,
		Example: `  sudo socketplane uninstall
  sudo socketplane uninstall --purge`,
		Args:                  args(0, 0),
		DisableFlagsInUseLine: true,
	}
	cmd.Flags().BoolVar(&force, "force", false, "uninstall even if containers are attached (they lose their network) or the host cannot leave its cluster")
	cmd.Flags().BoolVar(&purge, "purge", false, "also remove the settings, the state and the log")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if os.Geteuid() != 0 {
			return setup.ErrNotRoot
		}
		s, err := a.settings()
		if err != nil {
			return err
		}
		return a.uninstall(cmd.Context(), s, force, purge)
	}
	return cmd
}

func (a *app) uninstall(ctx context.Context, s Settings, force, purge bool) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("path of this program: %w", err)
	}
	host := a.setupHost()
	steps := host.Uninstall(setup.Uninstall{
		Self: self, StateDir: s.Host.StateDir, DaemonJSON: s.Docker.DaemonJSON, LogFile: s.Log.File,
		Socket: s.API.Socket, Locks: lockDir, Plugin: driver.PluginSocket, Force: force, Purge: purge,
		Attached: attached,
		Leave:    func(ctx context.Context) (string, error) { return a.leaveCluster(ctx, s, force) },
		StopAgent: func(ctx context.Context) (string, error) {
			said, err := a.stopQuietly(ctx, s)
			if err == nil { // a killed agent leaves its Consul running
				err = cluster.StopConsul(s.Host.StateDir)
			}
			return said, err
		},
		DockerNetworks: func(ctx context.Context) (string, error) { return retireNetworks(ctx, s) },
		DockerRuntime:  func(ctx context.Context) (string, error) { return unregisterRuntime(ctx, s) },
		CNI:            removeCNI,
		Network:        func(ctx context.Context) (string, error) { return clearNetwork(ctx, s) },
	})
	if err := host.Run(ctx, "uninstall", steps); err != nil {
		return fmt.Errorf("uninstall: %w", err)
	}
	return nil
}

// attached counts the endpoints of this host that have an interface. It needs no running
// agent.
func attached() (int, error) {
	links := link.New(slog.New(slog.DiscardHandler))
	defer links.Close()
	ends, err := links.HostVeths()
	return len(ends), err
}

// stopQuietly stops an agent that systemd does not run. It returns the message instead of
// printing it.
func (a *app) stopQuietly(ctx context.Context, s Settings) (string, error) {
	if p, err := findAgent(ctx, s); err != nil || p == nil {
		return "", err
	}
	quiet := *a
	var said strings.Builder
	quiet.stdout = &said
	if _, err := quiet.stopAgent(ctx, s); err != nil {
		return "", err
	}
	return strings.TrimSpace(said.String()), nil
}

// dockerTimeout bounds the calls to dockerd. Each network takes a moment.
const dockerTimeout = time.Minute

func retireNetworks(ctx context.Context, s Settings) (string, error) {
	if !s.Docker.Enabled {
		return "", nil
	}
	if _, err := os.Stat(s.Docker.Socket); err != nil {
		return "", nil //nolint:nilerr // there is no Docker
	}
	ctx, cancel := context.WithTimeout(ctx, dockerTimeout)
	defer cancel()
	names, err := driver.Retire(ctx, "unix://"+s.Docker.Socket, driver.PluginSocket)
	if err != nil {
		return "", err
	}
	if len(names) == 0 {
		return "", nil
	}
	return "removed " + strings.Join(names, " "), nil
}

func unregisterRuntime(ctx context.Context, s Settings) (string, error) {
	if !s.Docker.Enabled || !s.Docker.RegisterRuntime {
		return "", nil
	}
	if _, err := os.Stat(s.Docker.DaemonJSON); err != nil {
		return "", nil //nolint:nilerr // nothing was ever registered
	}
	err := docker.Unregister(ctx, docker.Registration{
		DaemonJSON: s.Docker.DaemonJSON, Host: "unix://" + s.Docker.Socket, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return "", err
	}
	return s.Docker.DaemonJSON + " does not name it", nil
}

func removeCNI() (string, error) {
	done, err := (&cni.Setup{BinDir: cniBinDir, ConfDir: cniConfDir}).Uninstall()
	if err != nil || len(done) == 1 && !strings.HasPrefix(done[0], "removed") {
		return "", err
	}
	return strings.Join(done, ", "), nil
}

// clearNetwork removes what the agent created in the switch and the kernel.
func clearNetwork(ctx context.Context, s Settings) (string, error) {
	var said []string
	removed, err := ovs.RemoveBridge(ctx, ovs.Config{Socket: "unix:" + s.OVS.Socket, Bridge: s.OVS.Bridge})
	switch {
	case errors.Is(err, ovs.ErrUnavailable):
		said = append(said, "Open vSwitch does not run; a bridge in its database stays (ovs-vsctl del-br "+s.OVS.Bridge+")")
	case err != nil:
		return "", err
	case removed:
		said = append(said, "removed bridge "+s.OVS.Bridge)
	}
	quiet := slog.New(slog.DiscardHandler)
	links := link.New(quiet)
	defer links.Close()
	n, err := links.Clear(ctx)
	if err != nil {
		return "", err
	}
	if n > 0 {
		said = append(said, fmt.Sprintf("removed %d interfaces", n))
	}
	if err := firewall.New(quiet).Clear(); err != nil {
		return "", err
	}
	rules, err := nat.New(quiet)
	if errors.Is(err, nat.ErrNoIptables) {
		return strings.Join(said, ", "), nil
	}
	if err != nil {
		return "", err
	}
	if err := rules.Clear(ctx); err != nil {
		return "", err
	}
	host := &setup.Host{}
	before, err := host.ForwardPolicy(s.Host.StateDir)
	if err != nil {
		return "", err
	}
	if before == "ACCEPT" && !host.DockerRuns() { // with Docker, the policy is Docker's
		if err := rules.AllowForward(ctx); err != nil {
			return "", err
		}
	}
	return strings.Join(append(said, "no iptables rule of ours is left"), ", "), nil
}
