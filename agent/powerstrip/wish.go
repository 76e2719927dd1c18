package powerstrip

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/socketplane/socketplane/agent/api"
)

// wish is the network that a container's environment requests.
type wish struct {
	name    string       // SP_NETWORK
	cidr    string       // SOCKETPLANE_CIDR, as written
	subnet  netip.Prefix // of cidr, host bits zero
	gateway netip.Addr   // the host address in cidr; the zero Addr if there is none
}

func (w wish) empty() bool { return w.name == "" && w.cidr == "" }

func (w wish) String() string {
	switch {
	case w.cidr == "":
		return envNetwork + "=" + w.name
	case w.name == "":
		return envCIDR + "=" + w.cidr
	}
	return envNetwork + "=" + w.name + " and " + envCIDR + "=" + w.cidr
}

// wishOf parses an environment. If a variable is set twice, the last value counts, as in
// the container.
func wishOf(env []string) (w wish, err error) {
	for _, entry := range env {
		name, value, set := strings.Cut(entry, "=")
		value = strings.TrimSpace(value)
		switch {
		case !set:
		case name == envNetwork:
			if err := api.CheckNetworkRef(value); err != nil {
				return wish{}, fmt.Errorf("%s: %w", envNetwork, err)
			}
			w.name = value
		case name == envCIDR:
			if w.subnet, w.gateway, err = api.ParseCIDR(value); err != nil {
				return wish{}, fmt.Errorf("%s: %w", envCIDR, err)
			}
			w.cidr = value
		}
	}
	return w, nil
}

// find looks for an existing network. It fails if a named network does not exist. It
// returns false if the network must be created.
func (a *Adapter) find(ctx context.Context, w wish) (api.Network, bool, error) {
	if w.name != "" {
		n, err := a.cfg.Networks.Network(ctx, w.name)
		if err != nil {
			return n, false, fmt.Errorf("%s: %w", envNetwork, err)
		}
		if w.cidr != "" && n.Subnet != w.subnet {
			return n, false, api.Errorf(api.CodeConflict, "%s and %s do not agree: network %q has subnet %s; leave one of them out",
				envNetwork, envCIDR, n.ID, n.Subnet)
		}
		return n, true, nil
	}
	all, err := a.cfg.Networks.Networks(ctx)
	if err != nil {
		return api.Network{}, false, err
	}
	for _, n := range all {
		if n.Subnet == w.subnet {
			return n, true, nil
		}
	}
	return api.Network{}, false, nil
}

// make creates the network of a wish that has only a subnet. If someone else creates one
// with the same subnet at the same moment, make returns that one.
func (a *Adapter) make(ctx context.Context, w wish) (api.Network, error) {
	req := api.CreateNetworkRequest{ID: "cidr-" + strings.ReplaceAll(w.subnet.String(), "/", "-"), Subnet: w.subnet.String()}
	if w.gateway.IsValid() {
		req.Gateway = w.gateway.String()
	}
	n, err := a.cfg.Networks.CreateNetwork(ctx, req)
	if err == nil {
		a.cfg.Logger.Info("network made for a container", "network", n.ID, "subnet", n.Subnet, "gateway", n.Gateway)
		return n, nil
	}
	if api.CodeOf(err) == api.CodeConflict {
		if n, found, again := a.find(ctx, w); again == nil && found {
			return n, nil
		}
	}
	return n, fmt.Errorf("%s=%s: %w", envCIDR, w.cidr, err)
}
