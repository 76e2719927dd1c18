package cli

import "github.com/spf13/cobra"

func (a *app) startCommand() *cobra.Command {
	return a.passthrough("start", &cobra.Command{
		Short: "Start stopped containers",
		Long: `Starts containers like docker start. When a container's process begins, the interface
is there, with the same address as before.`,
		Example: `  socketplane start shop
  socketplane start -a -i shop`,
	}, func(_ *cobra.Command, argv []string) error { return a.becomeDocker("start", argv) })
}
