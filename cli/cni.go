package cli

import (
	"fmt"
	"os"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/cni"
	"github.com/spf13/cobra"
)

func (a *app) cniCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "cni",
		Short: "Set up the CNI plugin for containerd, Podman 4 and others",
		Long: `Configures networks for programs that start containers through CNI: containerd,
Podman 4 with network_backend = "cni", CRI-O, Nomad. The plugin is this program
under the name ` + cni.Name + `. Podman 5 uses the netavark plugin, which needs no
configuration here: podman network create --driver socketplane-netavark.`,
		Example: `  socketplane cni install --network web
  podman run --network web nginx`,
	})
	cmd.AddCommand(a.cniInstallCommand(), a.cniUninstallCommand())
	return cmd
}

// Default directories of programs that use CNI.
const (
	cniBinDir  = "/opt/cni/bin"
	cniConfDir = "/etc/cni/net.d"
)

// cniDirs adds the flags for the directories of the plugin to cmd.
func cniDirs(cmd *cobra.Command) *cni.Setup {
	var s cni.Setup
	cmd.Flags().StringVar(&s.BinDir, "bin-dir", cniBinDir, "directory of CNI plugins")
	cmd.Flags().StringVar(&s.ConfDir, "conf-dir", cniConfDir, "directory of network configurations")
	return &s
}

func (a *app) cniInstallCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "install [--network NAME]... [--bin-dir DIR] [--conf-dir DIR]",
		Short: "Link the plugin and write a configuration for each network",
		Long: `Links this program as a CNI plugin, and writes a configuration for each network. CNI
knows a network by its own name, and the default one as "` + cni.DefaultName + `". Existing
configurations stay, and files of others are never overwritten. You may create the
networks before or after.`,
		Example: `  socketplane cni install
  socketplane cni install --network web --network db`,
		Args:                  args(0, 0),
		DisableFlagsInUseLine: true,
	}
	setup := cniDirs(cmd)
	networks := cmd.Flags().StringArray("network", nil, "network; may be repeated (default \""+api.DefaultNetwork+"\")")
	cmd.RunE = func(*cobra.Command, []string) error {
		settings, err := a.settings()
		if err != nil {
			return err
		}
		if setup.Program, err = os.Executable(); err != nil {
			return fmt.Errorf("path of this program: %w", err)
		}
		if setup.Networks = *networks; len(setup.Networks) == 0 {
			setup.Networks = []string{api.DefaultNetwork}
		}
		setup.Socket = settings.API.Socket
		done, err := setup.Install()
		return a.sayDone(done, err)
	}
	return cmd
}

func (a *app) cniUninstallCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "uninstall [--bin-dir DIR] [--conf-dir DIR]",
		Short: "Remove the plugin's link and the configurations that install wrote",
		Long: `Removes what install created, and nothing else. Stop containers that use the plugin
first: running ones keep their network, but afterwards nothing reports their end.`,
		Example:               `  socketplane cni uninstall`,
		Args:                  args(0, 0),
		DisableFlagsInUseLine: true,
	}
	setup := cniDirs(cmd)
	cmd.RunE = func(*cobra.Command, []string) error {
		done, err := setup.Uninstall()
		return a.sayDone(done, err)
	}
	return cmd
}

// sayDone prints one line per completed change, even if err is not nil, and returns err.
func (a *app) sayDone(done []string, err error) error {
	for _, line := range done {
		fmt.Fprintln(a.stdout, line)
	}
	return err
}
