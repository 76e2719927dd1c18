package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/spf13/cobra"
)

func (a *app) networkRouteCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "route",
		Short: "Lead a prefix to a container that routes for others",
		Long: `Adds and removes routes to what is behind a container of a network. The container was
started with --forwarding and --allow-address for that prefix. On every host that uses
the network, its other containers and the host itself then reach the prefix through
that container.

Root of each host must first allow the prefix, with allow_routes = ["PREFIX"] in section
[network] of the settings file, and restart the agent. socketplane network info shows
the routes.`,
		Example: `  socketplane network route add web 10.99.0.0/16 via vpn
  socketplane network route rm web 10.99.0.0/16`,
	})
	cmd.AddCommand(a.routeAddCommand(), a.routeRemoveCommand())
	return cmd
}

func (a *app) routeAddCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "add NETWORK PREFIX via CONTAINER",
		Short: "Lead a prefix to a container",
		Long: `Leads a prefix to a container of this host, from all hosts that use the network and
whose settings allow the prefix (allow_routes). The route lasts until it is removed, or
until the container's endpoint ends.`,
		Example: `  socketplane run -n web -d --name vpn --cap-add NET_ADMIN --sysctl net.ipv4.ip_forward=1 \
    --forwarding --allow-address 10.99.0.0/16 IMAGE
  socketplane network route add web 10.99.0.0/16 via vpn`,
		Args:                  args(4, 4),
		DisableFlagsInUseLine: true,
	}
	cmd.ValidArgsFunction = first(a.complete(networkNames))
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if args[2] != "via" {
			return usagef("%q is not \"via\"; usage: %s", args[2], usageLine(cmd))
		}
		svc, prefix, err := a.routeArguments(args)
		if err != nil {
			return err
		}
		ctx := cmd.Context()
		if _, err := svc.Network(ctx, args[0]); err != nil {
			return didYouMean(ctx, err, args[0], networkNames(svc))
		}
		e, err := endpointOn(ctx, svc, args[0], args[3])
		if err != nil {
			return err
		}
		list := api.AllowedText(e.Routes)
		if !slices.Contains(list, prefix) {
			list = append(list, prefix)
		}
		if _, err := svc.SetRoutes(ctx, e.ID, list); err != nil {
			return err
		}
		_, err = fmt.Fprintf(a.stdout, "%s via %s\n", prefix, e.IP)
		return err
	}
	return cmd
}

func (a *app) routeRemoveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:                   "rm NETWORK PREFIX",
		Aliases:               []string{"remove", "delete"},
		Short:                 "Remove a route",
		Long:                  `Removes the route to a prefix, on the host of the container that it leads to.`,
		Example:               `  socketplane network route rm web 10.99.0.0/16`,
		Args:                  args(2, 2),
		DisableFlagsInUseLine: true,
	}
	cmd.ValidArgsFunction = first(a.complete(networkNames))
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		svc, prefix, err := a.routeArguments(args)
		if err != nil {
			return err
		}
		ctx := cmd.Context()
		endpoints, err := svc.Endpoints(ctx)
		if err != nil {
			return err
		}
		for _, e := range endpoints {
			list := api.AllowedText(e.Routes)
			if i := slices.Index(list, prefix); i >= 0 && e.Network == args[0] {
				if _, err := svc.SetRoutes(ctx, e.ID, slices.Delete(list, i, i+1)); err != nil {
					return err
				}
				_, err = fmt.Fprintln(a.stdout, prefix)
				return err
			}
		}
		return noRoute(ctx, svc, args[0], prefix)
	}
	return cmd
}

// routeArguments parses NETWORK and PREFIX and returns a client and the prefix.
func (a *app) routeArguments(args []string) (api.Service, string, error) {
	if err := api.CheckNetworkName(args[0]); err != nil {
		return nil, "", err
	}
	prefixes, err := api.ParseAllowed(args[1:2])
	if err != nil {
		return nil, "", err
	}
	svc, err := a.service()
	return svc, api.ShowAllowed(prefixes[0]), err
}

// endpointOn finds a container of this host on a network by id, prefix of the id, or name.
func endpointOn(ctx context.Context, svc api.Service, network, ref string) (api.Endpoint, error) {
	endpoints, err := svc.Endpoints(ctx)
	if err != nil {
		return api.Endpoint{}, err
	}
	means := func(e api.Endpoint) bool {
		return e.Network == network && (e.ID == ref || e.ContainerName == ref || e.ContainerID == ref ||
			ref != "" && (strings.HasPrefix(e.ID, ref) || strings.HasPrefix(e.ContainerID, ref)))
	}
	var found []api.Endpoint
	for _, e := range endpoints {
		if means(e) {
			found = append(found, e)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		if host := hostOf(ctx, svc, means); host != "" {
			return api.Endpoint{}, api.Errorf(api.CodeConflict, "container %q is on host %q; run the command there", ref, host)
		}
		return api.Endpoint{}, didYouMean(ctx, api.Errorf(api.CodeNotFound, "container %q has no endpoint on network %q on this host; see: socketplane info", ref, network),
			ref, containerNames(svc))
	}
	return api.Endpoint{}, api.Errorf(api.CodeInvalid, "container %q could be %d endpoints of this host; give more of the id", ref, len(found))
}

// hostOf returns the name of the host with a matching endpoint, or "" if none is known.
func hostOf(ctx context.Context, svc api.Service, means func(api.Endpoint) bool) string {
	all, err := svc.AllEndpoints(ctx)
	if err != nil {
		return ""
	}
	for _, e := range all {
		if means(e) {
			return e.Host
		}
	}
	return ""
}

func noRoute(ctx context.Context, svc api.Service, network, prefix string) error {
	host := hostOf(ctx, svc, func(e api.Endpoint) bool {
		return e.Network == network && slices.Contains(api.AllowedText(e.Routes), prefix)
	})
	if host != "" {
		return api.Errorf(api.CodeConflict, "network %q: route %s leads to a container on host %q; run the command there", network, prefix, host)
	}
	return api.Errorf(api.CodeNotFound, "network %q has no route %s; see: socketplane network info %s", network, prefix, network)
}

// writeRoutes prints the routes through endpoints, if any.
func writeRoutes(w io.Writer, endpoints []endpointView) error {
	var rows [][]string
	for _, e := range endpoints {
		for _, p := range e.Routes {
			rows = append(rows, []string{p, e.IP, e.ContainerName, e.Host})
		}
	}
	if len(rows) == 0 {
		return nil
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	return writeTable(w, []string{"ROUTE", "VIA", "NAME", "HOST"}, rows)
}
