package cli

import "github.com/spf13/cobra"

func (a *app) networkListCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List all networks",
		Long:    `Lists the networks of the cluster, sorted by name.`,
		Example: `  socketplane network list
  socketplane network list -o json`,
		Args: args(0, 0),
	}
	format := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		svc, err := a.service()
		if err != nil {
			return err
		}
		networks, err := svc.Networks(cmd.Context())
		if err != nil {
			return err
		}
		views := make([]networkView, 0, len(networks)) // never nil: JSON shows []
		for _, n := range networks {
			views = append(views, viewNetwork(n))
		}
		if *format == outputJSON {
			return writeJSON(a.stdout, views)
		}
		return writeNetworks(a.stdout, views)
	}
	return cmd
}
