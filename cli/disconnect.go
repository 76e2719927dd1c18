package cli

import (
	"context"
	"fmt"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/docker"
	"github.com/spf13/cobra"
)

func (a *app) disconnectCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "disconnect ID",
		Short: "Remove an interface and free its address",
		Long: `Undoes connect: removes the interface, the port and its flows, and frees the
address. An id that is not connected is an error.`,
		Example: `  socketplane disconnect blue`,
		Args:    args(1, 1),

		ValidArgsFunction: first(a.complete(connectedIDs)),
		RunE: func(cmd *cobra.Command, args []string) error {
			svc, err := a.service()
			if err != nil {
				return err
			}
			// Release succeeds for an unknown id, but a user wants to know about a typing
			// error.
			e, err := svc.Endpoint(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			switch {
			case e.ID != args[0]: // found by a prefix or a name: too vague to destroy
				return api.Errorf(api.CodeNotFound, "no endpoint has the id %q; did you mean %q?", args[0], e.ID)
			case e.Source == api.SourceDocker:
				return api.Errorf(api.CodeConflict, "%s is a Docker container; remove it with: socketplane rm %s", args[0], shortID(e.ID))
			case e.Source == api.SourceDriver:
				return api.Errorf(api.CodeConflict, "endpoint %q is Docker's; remove it with: docker network disconnect %s CONTAINER", shortID(e.ID), docker.NetworkName(e.Network))
			}
			if err := svc.Release(cmd.Context(), e.ID); err != nil {
				return err
			}
			_, err = fmt.Fprintln(a.stdout, e.ID)
			return err
		},
	}
}

// connectedIDs returns a function that lists the ids that disconnect accepts.
func connectedIDs(svc api.Service) func(context.Context) ([]string, error) {
	return func(ctx context.Context) ([]string, error) {
		endpoints, err := svc.Endpoints(ctx)
		var ids []string
		for _, e := range endpoints {
			if e.Source != api.SourceDocker && e.Source != api.SourceDriver {
				ids = append(ids, e.ID)
			}
		}
		return ids, err
	}
}
