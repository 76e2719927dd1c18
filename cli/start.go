package cli

import "github.com/spf13/cobra"

func (a *app) startCommand() *cobra.Command {
	return a.passthrough("start", &cobra.Command{
		Short: "Start stopped containers",
		Long: `Starts containers as docker start does. Each has its interface, with the address it
had before, when its process begins.`,
		Example: `  socketplane start shop
  socketplane start -a -i shop`,
	}, func(_ *cobra.Command, argv []string) error { return a.becomeDocker("start", argv) })
}
