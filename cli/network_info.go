package cli

import (
	"fmt"
	"io"
	"slices"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/spf13/cobra"
)

func (a *app) networkInfoCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "info NAME",
		Aliases: []string{"inspect"},
		Short:   "Show one network and its endpoints",
		Long: `Shows a network: subnet, gateway, VLAN, VNI and MTU, its endpoints on all hosts, and the
routes to what is behind them. An endpoint without an interface is a stopped container
that keeps its address.`,
		Example: `  socketplane network info web
  socketplane network info web -o json`,
		Args: args(1, 1),
	}
	cmd.ValidArgsFunction = first(a.complete(networkNames))
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
			return didYouMean(cmd.Context(), err, args[0], networkNames(svc))
		}
		endpoints, err := svc.AllEndpoints(cmd.Context())
		if err != nil {
			a.warnNoEndpoints(err)
		} else if endpoints == nil {
			endpoints = []api.Endpoint{}
		}
		return writeNetworkDetails(a.stdout, *format, n, endpoints)
	}
	return cmd
}

// networkDetails is a network with its endpoints on all hosts.
type networkDetails struct {
	networkView
	Endpoints []endpointView `json:"endpoints"`
}

func writeNetworkDetails(w io.Writer, format outputFormat, n api.Network, endpoints []api.Endpoint) error {
	d := networkDetails{networkView: viewNetwork(n)}
	if endpoints != nil {
		d.Endpoints = []endpointView{} // JSON shows [], or null if they are not known
	}
	slices.SortFunc(endpoints, func(a, b api.Endpoint) int { return a.IP.Compare(b.IP) })
	for _, e := range endpoints {
		if e.Network == n.ID {
			d.Endpoints = append(d.Endpoints, viewEndpoint(e))
		}
	}
	if format == outputJSON {
		return writeJSON(w, d)
	}
	if err := writeNetwork(w, outputTable, n); err != nil || len(d.Endpoints) == 0 {
		return err
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	if err := writeAllEndpoints(w, d.Endpoints); err != nil {
		return err
	}
	return writeRoutes(w, d.Endpoints)
}
