package cli

import (
	"fmt"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/spf13/cobra"
)

func (a *app) networkDeleteCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "delete NAME",
		Aliases: []string{"rm"},
		Short:   "Delete an unused network",
		Long: `Deletes a network on all hosts. A network with endpoints on any host cannot be deleted;
remove its containers first. A stopped container that keeps its address counts.`,
		Example: `  socketplane network delete web`,
		Args:    args(1, 1),
	}
	cmd.ValidArgsFunction = first(a.complete(networkNames))
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := api.CheckNetworkName(args[0]); err != nil {
			return err
		}
		svc, err := a.service()
		if err != nil {
			return err
		}
		if err := svc.DeleteNetwork(cmd.Context(), args[0]); err != nil {
			return didYouMean(cmd.Context(), err, args[0], networkNames(svc))
		}
		_, err = fmt.Fprintln(a.stdout, args[0])
		return err
	}
	return cmd
}
