package cli

import (
	"github.com/socketplane/socketplane/agent/api"
	"github.com/spf13/cobra"
)

func (a *app) networkInfoCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "info NAME",
		Short: "Show one network",
		Long:  `Shows a network: subnet, gateway, VLAN, VNI and MTU.`,
		Example: `  socketplane network info web
  socketplane network info web -o json`,
		Args: args(1, 1),
	}
	format := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := api.CheckNetworkName(args[0]); err != nil {
			return err
		}
		svc, err := a.service()
		if err != nil {
			return err
		}
		n, err := svc.Network(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		return writeNetwork(a.stdout, *format, n)
	}
	return cmd
}
