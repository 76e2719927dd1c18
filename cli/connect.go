package cli

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/spf13/cobra"
)

func (a *app) connectCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "connect -n NETWORK --netns PATH --id ID [--ifname eth0] [--ip ADDR] [-p PORTS] [--allow-address ADDR]... [--forwarding]",
		Short: "Connect any network namespace to a network",
		Long: `Puts an interface on a network into a network namespace, whatever created it: LXC,
systemd-nspawn, ip netns. When the command returns, the interface has its address and
default route. Repeating the command changes nothing. The interface stays until
disconnect, or until the namespace is gone.

--allow-address lets it have another address of the network as well. Several endpoints
may be allowed the same address, for a program such as keepalived to move it between
them. With --forwarding the addresses may lie outside of the network: the namespace
routes for what is behind it.`,
		Example: `  ip netns add blue
  socketplane connect -n web --netns /run/netns/blue --id blue
  ip netns exec blue ping 10.6.0.1`,
		Args:                  args(0, 0),
		DisableFlagsInUseLine: true,
	}
	format := outputFlag(cmd)
	var req api.AttachRequest
	var publish []string
	flags := cmd.Flags()
	flags.StringVarP(&req.Network, "network", "n", api.DefaultNetwork, "network")
	flags.StringVar(&req.NetNS, "netns", "", "path of the network namespace (required)")
	flags.StringVar(&req.ID, "id", "", "name for the endpoint, unique on this host (required)")
	flags.StringVar(&req.IfName, "ifname", "eth0", "name of the interface inside the namespace")
	flags.StringVar(&req.IP, "ip", "", "address (default: the next free one)")
	flags.StringArrayVarP(&publish, "publish", "p", nil, "port of this host that leads to it, as docker run -p: [[ip:]host:]port[/udp]; may be repeated")
	flags.StringArrayVar(&req.AllowAddresses, "allow-address", nil, "address, or prefix, that it may have beside its own; may be repeated")
	flags.BoolVar(&req.Forwarding, "forwarding", false, "allowed addresses may lie outside of the network: it routes for others")
	completeFlag(cmd, "network", a.complete(networkNames))
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		req.Source = api.SourceConnect
		if err := checkConnect(cmd, &req); err != nil {
			return err
		}
		for _, spec := range publish {
			ports, err := parsePublish(spec)
			if err != nil {
				return err
			}
			req.Ports = append(req.Ports, ports...)
		}
		if err := api.CheckPorts(req.Ports); err != nil {
			return err
		}
		svc, err := a.service()
		if err != nil {
			return err
		}
		e, err := svc.Attach(cmd.Context(), req)
		if err != nil {
			return didYouMean(cmd.Context(), err, req.Network, networkNames(svc))
		}
		return writeEndpoint(a.stdout, *format, e)
	}
	return cmd
}

// checkConnect returns early the errors that the agent would return. It makes the path
// absolute, because the agent has another working directory.
func checkConnect(cmd *cobra.Command, req *api.AttachRequest) error {
	for _, name := range []string{"netns", "id"} {
		if !cmd.Flags().Changed(name) {
			return usagef("--%s is missing; usage: %s", name, usageLine(cmd))
		}
	}
	if err := api.CheckNetworkName(req.Network); err != nil {
		return err
	}
	if err := api.CheckEndpointID(req.ID); err != nil {
		return err
	}
	if err := api.CheckIfName(req.IfName); err != nil {
		return err
	}
	if req.IP != "" {
		if _, err := api.ParseIP(req.IP); err != nil {
			return err
		}
	}
	if err := checkAllowed(req.AllowAddresses, req.Forwarding); err != nil {
		return err
	}
	if req.NetNS == "" || strings.ContainsRune(req.NetNS, 0) {
		return usagef("--netns %q is not a path; give one like /run/netns/blue", req.NetNS)
	}
	abs, err := filepath.Abs(req.NetNS)
	if err != nil {
		return fmt.Errorf("--netns %q: %w", req.NetNS, err)
	}
	req.NetNS = abs
	return nil
}
