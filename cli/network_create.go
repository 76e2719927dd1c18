package cli

import (
	"fmt"
	"net/netip"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/verdict"
	"github.com/spf13/cobra"
)

// sayNeeds prints which settings each host needs before it uses a new network as
// requested.
func (a *app) sayNeeds(n api.Network) {
	const where = "in section [network] of /etc/socketplane/socketplane.toml, and a restart of the agent"
	if n.AllowMetadata {
		fmt.Fprintf(a.stderr, "each host lets the containers of %s read the cloud's metadata once its settings allow it: allow_metadata = [%q] %s\n", n.ID, n.ID, where)
	}
	if verdict.Range(n.Subnet, nil) != "" {
		fmt.Fprintf(a.stderr, "%s is a public range; each other host that is to use the network needs allow_public = [%q] %s\n", n.Subnet, n.Subnet, where)
	}
}

func (a *app) networkCreateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "create NAME [CIDR] [--gateway ADDR] [--dynamic CIDR] [--allow-metadata]",
		Short: "Create a network on all hosts",
		Long: `Creates a network. Without a CIDR it picks a free subnet, which overlaps no other
network and no route of any host. If the network exists with the same subnet, it
prints that network; with another subnet it fails.

The subnet must be private: in 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16,
100.64.0.0/10 or 198.18.0.0/15. For a public one, root of each host that uses it sets
allow_public = ["CIDR"] in section [network] of the settings file, and restarts the
agent.

With --dynamic, containers that ask for no address get one from that part of the
subnet, on every host and however they are attached. The rest is for containers that
ask for an address (--ip). Every living host must run a release that knows such ranges.

Containers do not reach link-local addresses (169.254.0.0/16), 168.63.129.16 (except
its name server), 100.100.100.200 and 192.0.0.192. A cloud serves the host's metadata
there, secrets included. --allow-metadata opens these addresses to the containers of
this network, on each host whose settings list the network under allow_metadata in
section [network].`,
		Example: `  socketplane network create web 10.6.0.0/16
  socketplane network create shop 10.7.0.0/24 --gateway 10.7.0.254
  socketplane network create lab 10.6.0.0/16 --dynamic 10.6.128.0/17
  socketplane network create db -o json`,
		Args:                  args(1, 2),
		DisableFlagsInUseLine: true,
	}
	format := outputFlag(cmd)
	gateway := cmd.Flags().String("gateway", "", "the gateway's address (default: the subnet's first)")
	dynamic := cmd.Flags().String("dynamic", "", "part of the subnet for containers that ask for no address (default: all of it)")
	metadata := cmd.Flags().Bool("allow-metadata", false, "let its containers reach the cloud's metadata (169.254.169.254), on hosts whose settings allow it")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := api.CheckNetworkName(args[0]); err != nil {
			return err
		}
		req := api.CreateNetworkRequest{ID: args[0], AllowMetadata: *metadata}
		if len(args) == 2 {
			if _, err := api.ParseSubnet(args[1]); err != nil {
				return err
			}
			req.Subnet = args[1]
		}
		if *gateway != "" {
			if _, err := api.ParseIP(*gateway); err != nil {
				return err
			}
			if req.Subnet == "" {
				return usagef("--gateway needs a CIDR; usage: %s", usageLine(cmd))
			}
			req.Gateway = *gateway
		}
		if *dynamic != "" {
			if req.Subnet == "" {
				return usagef("--dynamic needs a CIDR; usage: %s", usageLine(cmd))
			}
			if _, err := api.ParseRange(*dynamic, netip.MustParsePrefix(req.Subnet)); err != nil {
				return err
			}
			req.Dynamic = *dynamic
		}
		svc, err := a.service()
		if err != nil {
			return err
		}
		n, err := svc.CreateNetwork(cmd.Context(), req)
		if err != nil {
			return err
		}
		a.sayNeeds(n)
		return writeNetwork(a.stdout, *format, n)
	}
	return cmd
}
