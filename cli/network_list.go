package cli

import (
	"context"
	"fmt"
	"io"
	"strconv"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/spf13/cobra"
)

func (a *app) networkListCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List all networks",
		Long: `Lists the networks of the cluster, sorted by name, with the number of endpoints on
all hosts. Stopped containers that keep their address count.`,
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
		counts := a.countEndpoints(cmd.Context(), svc)
		views := make([]networkListing, 0, len(networks)) // never nil, so that JSON shows []
		for _, n := range networks {
			l := networkListing{networkView: viewNetwork(n)}
			if counts != nil {
				count := counts[n.ID]
				l.EndpointCount = &count
			}
			views = append(views, l)
		}
		if *format == outputJSON {
			return writeJSON(a.stdout, views)
		}
		return writeNetworkList(a.stdout, views)
	}
	return cmd
}

// networkListing is a network in the output of `network list`.
type networkListing struct {
	networkView
	EndpointCount *int `json:"endpoint_count,omitempty"` // on all hosts; nil: not known
}

// countEndpoints counts the endpoints of each network on all hosts. It returns nil if the
// agent does not know them yet.
func (a *app) countEndpoints(ctx context.Context, svc api.Service) map[string]int {
	endpoints, err := svc.AllEndpoints(ctx)
	if err != nil {
		a.warnNoEndpoints(err)
		return nil
	}
	counts := map[string]int{}
	for _, e := range endpoints {
		counts[e.Network]++
	}
	return counts
}

// warnNoEndpoints prints why a network is shown without its endpoints. An agent that waits
// for the store knows its networks before its endpoints.
func (a *app) warnNoEndpoints(err error) {
	fmt.Fprintln(a.stderr, "socketplane: the endpoints are not known: "+oneLine(err.Error()))
}

func writeNetworkList(w io.Writer, networks []networkListing) error {
	rows := make([][]string, 0, len(networks))
	for _, n := range networks {
		count := "" // shown as "-"
		if n.EndpointCount != nil {
			count = strconv.Itoa(*n.EndpointCount)
		}
		rows = append(rows, append(n.row(), count))
	}
	return writeTable(w, append(networkHeader(), "ENDPOINTS"), rows)
}
