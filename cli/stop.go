package cli

import "github.com/spf13/cobra"

func (a *app) stopCommand() *cobra.Command {
	return a.passthrough("stop", &cobra.Command{
		Short:   "Stop containers",
		Long:    `Stops containers like docker stop. A stopped container keeps its address.`,
		Example: `  socketplane stop -t 2 shop`,
	}, func(_ *cobra.Command, argv []string) error { return a.becomeDocker("stop", argv) })
}
