package cli

import "github.com/spf13/cobra"

func (a *app) restartCommand() *cobra.Command {
	return a.passthrough("restart", &cobra.Command{
		Short:   "Restart containers",
		Long:    `Restarts containers like docker restart. They keep their address.`,
		Example: `  socketplane restart shop`,
	}, func(_ *cobra.Command, argv []string) error { return a.becomeDocker("restart", argv) })
}
