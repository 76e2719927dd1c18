package cli

import (
	"fmt"
	"io"
	"strconv"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/spf13/cobra"
)

func (a *app) networkCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use:     "network",
		Aliases: []string{"net"},
		Short:   "Create, list, show and delete networks",
		Long: `A network is a layer-2 and layer-3 segment with a subnet of its own that spans all
hosts of the cluster. Containers reach those of other networks only by published ports.`,
		Example: `  socketplane network create web 10.6.0.0/16
  socketplane network list
  socketplane network delete web`,
	})
	cmd.AddCommand(a.networkCreateCommand(), a.networkListCommand(), a.networkInfoCommand(), a.networkRouteCommand(), a.networkDeleteCommand())
	return cmd
}

// networkView is a network in the output. The field names are stable.
type networkView struct {
	ID      string `json:"id"`
	Subnet  string `json:"subnet"`
	Gateway string `json:"gateway"`
	VLAN    int    `json:"vlan"`
	VNI     uint32 `json:"vni"`
	MTU     int    `json:"mtu"`

	Dynamic       string `json:"dynamic,omitempty"`
	AllowMetadata bool   `json:"allow_metadata,omitempty"`
	Problem       string `json:"problem,omitempty"` // why this host does not use it as recorded
}

func viewNetwork(n api.Network) networkView {
	dynamic := ""
	if n.Dynamic.IsValid() {
		dynamic = n.Dynamic.String()
	}
	return networkView{
		ID: n.ID, Subnet: n.Subnet.String(), Gateway: n.Gateway.String(), VLAN: n.VLAN, VNI: n.VNI, MTU: n.MTU,
		Dynamic: dynamic, AllowMetadata: n.AllowMetadata, Problem: n.Problem,
	}
}

func networkHeader() []string {
	return []string{"NETWORK", "SUBNET", "GATEWAY", "VLAN", "VNI", "MTU"}
}

func (n networkView) row() []string {
	return []string{n.ID, n.Subnet, n.Gateway, strconv.Itoa(n.VLAN), strconv.FormatUint(uint64(n.VNI), 10), strconv.Itoa(n.MTU)}
}

func writeNetworks(w io.Writer, networks []networkView) error {
	rows := make([][]string, 0, len(networks))
	for _, n := range networks {
		rows = append(rows, n.row())
	}
	return writeTable(w, networkHeader(), rows)
}

func writeNetwork(w io.Writer, format outputFormat, n api.Network) error {
	if format == outputJSON {
		return writeJSON(w, viewNetwork(n))
	}
	if err := writeNetworks(w, []networkView{viewNetwork(n)}); err != nil {
		return err
	}
	if n.Dynamic.IsValid() {
		if _, err := fmt.Fprintf(w, "Dynamic addresses: from %s\n", n.Dynamic); err != nil {
			return err
		}
	}
	if n.Problem == "" {
		return nil
	}
	_, err := fmt.Fprintf(w, "Problem: %s\n", oneLine(n.Problem))
	return err
}
