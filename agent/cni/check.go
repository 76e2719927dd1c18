package cni

import (
	"context"
	"net/netip"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/socketplane/socketplane/agent/api"
)

// check reports whether the container still has what ADD gave it, according to the agent,
// the result of the chain, and the kernel. It repairs nothing. It also rejects every
// request that ADD would reject, because a runtime that reloads a network calls DEL before
// ADD, and CHECK is the last chance to report the error before the interface is gone.
func (p *plugin) check(ctx context.Context, args *skel.CmdArgs) error {
	c, err := decode(args.StdinData, true)
	if err != nil {
		return err
	}
	prev, err := c.previous()
	if err != nil {
		return err
	}
	if prev == nil {
		return failf(types.ErrInvalidNetworkConfig, "key \"prevResult\" is missing: CHECK compares with it")
	}
	result, err := types100.NewResultFromResult(prev)
	if err != nil {
		return failf(types.ErrDecodingFailure, "key \"prevResult\": %v", err)
	}
	req, err := asked(c, args)
	if err != nil {
		return err
	}
	id := req.ID
	e, err := p.connect(c.Socket).Endpoint(ctx, id)
	switch {
	case api.CodeOf(err) == api.CodeNotFound:
		return failf(codeNotFound, "container %s has no endpoint for interface %q", shown(args.ContainerID), args.IfName)
	case err != nil:
		return err
	case e.ID != id || !e.Attached || e.IfName != args.IfName || e.Network != c.Network:
		return failf(codeDiffers, "container %s is not attached to network %q as %q", shown(args.ContainerID), c.Network, args.IfName)
	}
	if err := given(req, e); err != nil {
		return err
	}
	if err := sameInterface(result, e, args.Netns); err != nil {
		return err
	}
	inside, err := look(args.Netns, e.IfName)
	if err != nil {
		return err
	}
	return inside.same(e.IfName, e.MAC, netip.PrefixFrom(e.IP, e.PrefixLen))
}

// given returns an error unless the endpoint has the addresses that the runtime requests.
func given(req api.AttachRequest, e api.Endpoint) error {
	if req.IP != "" && req.IP != e.IP.String() {
		return failf(codeDiffers, "address %s is asked for, the endpoint of interface %q has %s", req.IP, e.IfName, e.IP)
	}
	if req.MAC != "" && req.MAC != e.MAC {
		return failf(codeDiffers, "MAC address %s is asked for, the endpoint of interface %q has %s", req.MAC, e.IfName, e.MAC)
	}
	allowed, err := api.ParseAllowed(req.AllowAddresses)
	if err != nil {
		return err
	}
	if len(allowed) > 0 && (!slices.Equal(allowed, e.AllowAddresses) || req.Forwarding != e.Forwarding) {
		return failf(codeDiffers, "the endpoint of interface %q is allowed other addresses (%s) than are asked for", e.IfName, strings.Join(api.AllowedText(e.AllowAddresses), ", "))
	}
	return nil
}
