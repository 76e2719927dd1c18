package cli

import (
	"fmt"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/spf13/cobra"
)

func (a *app) clusterBootstrapCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bootstrap",
		Short: "Create a cluster with this host",
		Long: `Creates a cluster with this host alone. The host's networks and endpoints become the
cluster's; running containers are not interrupted. Without a token it generates one,
which cluster token shows. It changes nothing on a host where a cluster was bootstrapped.`,
		Example: `  socketplane cluster bootstrap
  socketplane cluster bootstrap --token-file /root/token`,
		Args: args(0, 0),
	}
	token := tokenFlags(cmd)
	format := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		secret, err := a.readToken(token)
		if err != nil {
			return err
		}
		before, after, err := a.change(cmd.Context(), func(svc api.ClusterService) (api.Place, error) {
			return svc.Bootstrap(cmd.Context(), api.BootstrapRequest{Token: secret})
		})
		if err != nil {
			return err
		}
		a.warnInsecure(after)
		switch {
		case *format == outputJSON:
			return writeJSON(a.stdout, after)
		case before.Cluster == after.Cluster:
			_, err = fmt.Fprintf(a.stdout, "cluster %s began on this host already\n", after.Cluster)
			return err
		}
		_, err = fmt.Fprintf(a.stdout, "cluster %s begins on this host, at %s (%s)\nanother host joins it with its token (socketplane cluster token):\n  socketplane cluster join %s\n",
			after.Cluster, after.Address, after.Iface, after.Address)
		return err
	}
	return cmd
}

func (a *app) clusterJoinCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "join [--token-file FILE] [ADDR...]",
		Short: "Join the cluster of another host",
		Long: `Joins the cluster of the hosts at the addresses; one that answers is enough. Without an
address, the host finds the cluster by mDNS on the segment of the tunnel interface.

Give the cluster's token in a file, on standard input (--token-file -), in
SOCKETPLANE_TOKEN, or with --token, which other users of this host can see while the
command runs. The default is the token in cluster.token_file
(` + DefaultTokenFile + `); with that file, the agent also finds and joins
the cluster by itself. A host that joins must have no networks of its own, except an
unused "default".`,
		Example: `  ssh host1 socketplane cluster token | socketplane cluster join --token-file - 192.0.2.11
  socketplane cluster join --token-file /root/token`,
		Args: args(0, -1),
	}
	token := tokenFlags(cmd)
	format := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if _, err := api.ParseJoin(args); err != nil {
			return err
		}
		secret, err := a.readToken(token)
		if err != nil {
			return err
		}
		_, after, err := a.change(cmd.Context(), func(svc api.ClusterService) (api.Place, error) {
			return svc.Join(cmd.Context(), api.JoinRequest{Token: secret, Addresses: args})
		})
		if err != nil {
			return err
		}
		a.warnInsecure(after)
		if *format == outputJSON {
			return writeJSON(a.stdout, after)
		}
		_, err = fmt.Fprintf(a.stdout, "this host is in cluster %s, at %s (%s)\n", after.Cluster, after.Address, after.Iface)
		return err
	}
	return cmd
}

func (a *app) clusterLeaveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "leave",
		Short: "Leave the cluster",
		Long: `Leaves the cluster. The other hosts remove their tunnels to this host, which is on its
own again, with an empty state. It is refused while the host has endpoints.`,
		Example: `  socketplane cluster leave
  socketplane cluster leave --force`,
		Args: args(0, 0),
	}
	force := cmd.Flags().Bool("force", false, "detach all containers of this host and release their addresses")
	format := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		before, after, err := a.change(cmd.Context(), func(svc api.ClusterService) (api.Place, error) {
			return svc.Leave(cmd.Context(), api.LeaveRequest{Force: *force})
		})
		if err != nil {
			return err
		}
		if *format == outputJSON {
			return writeJSON(a.stdout, after)
		}
		_, err = fmt.Fprintf(a.stdout, "this host has left cluster %s\n", before.Cluster)
		return err
	}
	return cmd
}

func (a *app) clusterBindCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bind IFACE",
		Short: "Choose the tunnel interface",
		Long: `Moves the tunnels, and the cluster's Consul, to the address of an interface. The other
hosts follow within seconds. The choice persists and overrides the setting cluster.iface.
--default undoes it.`,
		Example: `  socketplane cluster bind eth1
  socketplane cluster bind --default`,
		Args:                  args(0, 1),
		DisableFlagsInUseLine: true,
	}
	undo := cmd.Flags().Bool("default", false, "return to the setting cluster.iface, or to the interface that the agent finds")
	format := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *undo == (len(args) == 1) {
			return usagef("name an interface or use --default; usage: %s", usageLine(cmd))
		}
		iface := ""
		if !*undo {
			iface = args[0]
			if err := api.CheckIfName(iface); err != nil {
				return err
			}
		}
		_, after, err := a.change(cmd.Context(), func(svc api.ClusterService) (api.Place, error) {
			return svc.Bind(cmd.Context(), api.BindRequest{Iface: iface})
		})
		if err != nil {
			return err
		}
		if *format == outputJSON {
			return writeJSON(a.stdout, after)
		}
		_, err = fmt.Fprintf(a.stdout, "tunnels are at %s (%s)\n", after.Address, after.Iface)
		return err
	}
	return cmd
}
