package cli

import "github.com/spf13/cobra"

func (a *app) attachCommand() *cobra.Command {
	cmd := a.passthrough("attach", &cobra.Command{
		Short: "Attach to a running container's streams",
		Long: `Attaches this terminal to a running container like docker attach. To attach a
container to a network, see connect.`,
		Example: `  socketplane attach shop`,
	}, func(_ *cobra.Command, argv []string) error { return a.becomeDocker("attach", argv) })
	cmd.Use = "attach [DOCKER_ARGS...] CONTAINER"
	return cmd
}
