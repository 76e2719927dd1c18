package cni

import (
	"fmt"
	"net"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	_ "github.com/containernetworking/cni/pkg/types/create" // the older versions of a result

	"github.com/socketplane/socketplane/agent/api"
)

// tell writes the result of ADD: the result of the previous plugin, if any, extended by
// our interface.
func (p *plugin) tell(c config, prev types.Result, e api.Endpoint, netns string) error {
	r := &types100.Result{}
	if prev != nil {
		before, err := types100.NewResultFromResult(prev)
		if err != nil {
			return failf(types.ErrDecodingFailure, "key \"prevResult\": %v", err)
		}
		r = before
	}
	inside, err := look(netns, e.IfName)
	if err != nil {
		return err
	}
	extend(r, c, e, netns, inside.isDefault)
	said, err := r.GetAsVersion(c.CNIVersion)
	if err != nil {
		return failf(types.ErrIncompatibleCNIVersion, "result in version %s: %v", c.CNIVersion, err)
	}
	if err := said.PrintTo(p.out); err != nil {
		return failf(types.ErrIOFailure, "write the result: %v", err)
	}
	return nil
}

// extend adds an endpoint to a result: its interface on the host, its interface in the
// container, and its address.
func extend(r *types100.Result, c config, e api.Endpoint, netns string, isDefault bool) {
	r.Interfaces = append(r.Interfaces,
		&types100.Interface{Name: e.Port, Mtu: e.MTU},
		&types100.Interface{Name: e.IfName, Mac: e.MAC, Mtu: e.MTU, Sandbox: netns})
	r.IPs = append(r.IPs, &types100.IPConfig{
		Interface: types100.Int(len(r.Interfaces) - 1),
		Address:   net.IPNet{IP: e.IP.AsSlice(), Mask: net.CIDRMask(e.PrefixLen, e.IP.BitLen())},
		Gateway:   e.Gateway.AsSlice(),
	})
	if isDefault {
		r.Routes = append(r.Routes, &types.Route{
			Dst: net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}, GW: e.Gateway.AsSlice(),
		})
	}
	if !c.DNS.IsEmpty() {
		r.DNS = *c.DNS.Copy()
	}
}

// sameInterface returns an error if our interface in a result differs from the endpoint.
func sameInterface(r *types100.Result, e api.Endpoint, netns string) error {
	for i, iface := range r.Interfaces {
		if iface == nil || iface.Name != e.IfName || iface.Sandbox == "" {
			continue
		}
		if iface.Sandbox != netns {
			return failf(codeDiffers, "the result has interface %q in namespace %s, CNI_NETNS is %s", e.IfName, shown(iface.Sandbox), shown(netns))
		}
		if iface.Mac != "" && iface.Mac != e.MAC {
			return otherMAC("by the result, ", e.IfName, shown(iface.Mac), e.MAC)
		}
		want := fmt.Sprintf("%s/%d", e.IP, e.PrefixLen)
		for _, ip := range r.IPs {
			if ip != nil && ip.Interface != nil && *ip.Interface == i && ip.Address.String() == want {
				return nil
			}
		}
		return failf(codeDiffers, "the result has interface %q without the address %s of its endpoint", e.IfName, want)
	}
	return failf(codeDiffers, "the result has no interface %q", e.IfName)
}
