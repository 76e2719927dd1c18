package driver

import (
	"context"
	"errors"
	"net/netip"
	"strings"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/docker"
)

// The subnet of a network is its IPAM pool and the id of the pool: subnets never overlap,
// and the id stays valid across restarts. If docker network create was given an
// --ip-range, the range follows the subnet in the id. Docker stores the id, and with it
// the range, for this host.

// parsePool parses a pool id. The range is the zero Prefix if the id has none: the whole
// subnet.
func parsePool(id string) (subnet, within netip.Prefix, err error) {
	text, part, ranged := strings.Cut(id, ",")
	if subnet, err = api.ParseSubnet(text); err == nil && ranged {
		within, err = api.ParseRange(part, subnet)
	}
	return subnet, within, err
}

type poolRequest struct {
	Pool, SubPool string
	Options       map[string]string // options of --ipam-opt
	V6            bool
}

type poolAnswer struct {
	PoolID, Pool string
	Data         map[string]string
}

// requestPool checks the subnet of a Docker network that is being created, or selects a
// free one, and reserves it. The network itself is created when its name is known.
func (d *Driver) requestPool(ctx context.Context, req poolRequest) (poolAnswer, error) {
	switch {
	case req.V6:
		return poolAnswer{}, api.Errorf(api.CodeInvalid, "networks are IPv4; leave out --ipv6 and IPv6 subnets")
	case req.SubPool != "" && req.Pool == "":
		return poolAnswer{}, api.Errorf(api.CodeInvalid, "--ip-range needs a --subnet; give both")
	}
	if err := checkPoolOptions(req.Options); err != nil {
		return poolAnswer{}, err
	}
	var subnet netip.Prefix
	if req.Pool != "" {
		var err error
		if subnet, err = api.ParseSubnet(req.Pool); err != nil {
			return poolAnswer{}, err
		}
		if req.SubPool != "" {
			if _, err := api.ParseRange(req.SubPool, subnet); err != nil {
				return poolAnswer{}, err
			}
		}
		if d.known.ours(subnet) {
			return answerPool(subnet, req.SubPool), nil
		}
	}
	networks, err := d.Service.Networks(ctx)
	if err != nil {
		return poolAnswer{}, err
	}
	for _, n := range networks {
		switch {
		case req.Pool == "" || n.Subnet != subnet:
		case d.known.has(subnet):
			return poolAnswer{}, api.Errorf(api.CodeConflict,
				"subnet %s is that of network %q, which Docker has on every host as %q; use that, or choose another subnet", subnet, n.ID, docker.NetworkName(n.ID))
		default:
			// Docker on this host does not have the network: it is about to get it, or a
			// user has just removed it. The request may be for this same network; only its
			// name will tell.
			return answerPool(subnet, req.SubPool), nil
		}
	}
	if req.Pool != "" && d.known.anyAwaited(subnet) {
		return poolAnswer{}, api.Errorf(api.CodeConflict, "subnet %s was just given to another network; choose another", subnet)
	}
	if subnet, err = d.reserve(ctx, subnet); err != nil {
		return poolAnswer{}, err
	}
	return answerPool(subnet, req.SubPool), nil
}

func answerPool(subnet netip.Prefix, within string) poolAnswer {
	id := subnet.String()
	if within != "" {
		id += "," + within
	}
	return poolAnswer{PoolID: id, Pool: subnet.String(), Data: map[string]string{}}
}

type addressRequest struct {
	PoolID, Address string
	Options         map[string]string
}

type addressAnswer struct {
	Address string // with the subnet's length
	Data    map[string]string
}

// Docker's IPAM protocol uses this option and value to request the address of a gateway.
const (
	optionType  = "RequestAddressType"
	typeGateway = "com.docker.network.gateway"
)

// requestAddress holds an address until its endpoint is created. For the gateway of a
// network it only returns the address, because no endpoint can hold it.
func (d *Driver) requestAddress(ctx context.Context, req addressRequest) (addressAnswer, error) {
	subnet, within, err := parsePool(req.PoolID)
	if err != nil {
		return addressAnswer{}, err
	}
	if req.Address != "" {
		if _, err := api.ParseIP(req.Address); err != nil {
			return addressAnswer{}, err
		}
	}
	if req.Options[optionType] == typeGateway {
		gateway := subnet.Addr().Next()
		if req.Address != "" {
			gateway = netip.MustParseAddr(req.Address)
		}
		if err := checkGateway(gateway, subnet); err != nil {
			return addressAnswer{}, err
		}
		return answerAddress(gateway, subnet), nil
	}
	ip, _ := netip.ParseAddr(req.Address) // invalid if no address is requested
	if ip.IsValid() && d.reserved.has(subnet) && !d.known.anyAwaited(subnet) {
		// The address is an --aux-address of a network that Docker is creating, because no
		// container can be on the network yet. The creation of the network reserves the
		// address.
		if err := checkAux(ip, subnet); err != nil {
			return addressAnswer{}, err
		}
		return answerAddress(ip, subnet), nil
	}
	if ip.IsValid() {
		unlock, err := d.kept.lock(ctx, netip.PrefixFrom(ip, subnet.Bits()))
		if err != nil {
			return addressAnswer{}, err
		}
		defer unlock()
	}
	var held api.Hold
	err = d.onNetwork(ctx, subnet, func(network string) (err error) {
		ask := api.HoldRequest{Network: network, IP: req.Address, From: d.keptAs(ctx, network, req.Address)}
		if within.IsValid() {
			ask.Range = within.String()
		}
		held, err = d.Service.Hold(ctx, ask)
		if api.CodeOf(err) == api.CodeConflict && ip.IsValid() {
			// Docker requests an --aux-address when it creates the Docker network of an
			// existing network. A container that requests such an address is rejected when
			// its endpoint is created.
			if spec, specErr := d.Service.DockerSpec(ctx, network, subnet); specErr == nil && spec.Keeps(ip) {
				held = api.Hold{}
				return nil
			}
		}
		if err != nil || subnet.Contains(held.IP) {
			return err
		}
		// The network was deleted and created again with another subnet.
		return errors.Join(api.Errorf(api.CodeNotFound, "network %q has not subnet %s any more", network, subnet), d.Service.Unhold(ctx, network, held.IP.String()))
	})
	if err != nil {
		return addressAnswer{}, err
	}
	if !held.IP.IsValid() {
		return answerAddress(ip, subnet), nil
	}
	if ctx.Err() != nil { // Docker has given up and will not release the address
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
		defer cancel()
		return addressAnswer{}, errors.Join(errLate, d.Service.Unhold(ctx, held.Network, held.IP.String()))
	}
	if req.Address != "" {
		d.kept.asked(netip.PrefixFrom(held.IP, subnet.Bits()))
	}
	return answerAddress(held.IP, subnet), nil
}

// checkGateway rejects addresses that no host can have. The cluster would reject them only
// after Docker has printed the network's id.
func checkGateway(gateway netip.Addr, subnet netip.Prefix) error {
	switch {
	case !subnet.Contains(gateway):
		return api.Errorf(api.CodeInvalid, "gateway %s is not in %s", gateway, subnet)
	case gateway == subnet.Addr():
		return api.Errorf(api.CodeInvalid, "gateway %s is the network address of %s; choose another or omit it", gateway, subnet)
	case !subnet.Contains(gateway.Next()):
		return api.Errorf(api.CodeInvalid, "gateway %s is the broadcast address of %s; choose another or omit it", gateway, subnet)
	}
	return nil
}

func answerAddress(addr netip.Addr, subnet netip.Prefix) addressAnswer {
	return addressAnswer{Address: netip.PrefixFrom(addr, subnet.Bits()).String(), Data: map[string]string{}}
}

// onNetwork calls f with the network that has a subnet. It waits for a network that Docker
// has just created and that is not in the cluster yet. If a remembered name is outdated,
// it looks the name up once more.
func (d *Driver) onNetwork(ctx context.Context, subnet netip.Prefix, f func(network string) error) error {
	if name, ok := d.known.pool(subnet); ok {
		err := f(name)
		if api.CodeOf(err) != api.CodeNotFound && api.CodeOf(err) != api.CodeConflict {
			return err
		}
	}
	for {
		grown := d.known.grown()
		networks, err := d.Service.Networks(ctx)
		if err != nil {
			return err
		}
		for _, n := range networks {
			if n.Subnet == subnet {
				return f(n.ID)
			}
		}
		if !d.known.anyAwaited(subnet) {
			return api.Errorf(api.CodeInvalid, "no network has subnet %s; see: socketplane network list", subnet)
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return api.Errorf(api.CodeUnavailable, "the network of subnet %s is not in the cluster yet; try again, or see: socketplane network list", subnet)
		}
	}
}

type addressRelease struct{ PoolID, Address string }

// releaseAddress releases the address of an endpoint that Docker has deleted, or an
// address that no endpoint used. It skips an endpoint that Docker is still creating,
// because then the release comes from another container that requested the same address
// and failed to get it.
func (d *Driver) releaseAddress(ctx context.Context, req addressRelease) (empty, error) {
	subnet, _, err := parsePool(req.PoolID)
	if err != nil {
		return empty{}, err
	}
	ip, err := api.ParseIP(req.Address)
	if err != nil {
		return empty{}, err
	}
	endpoints, err := d.Service.Endpoints(ctx)
	if err != nil {
		return empty{}, err
	}
	for _, e := range endpoints {
		if e.Source != api.SourceDriver || e.IP != ip || subnet.Bits() != e.PrefixLen {
			continue
		}
		if d.owed.has(e.ID) {
			return empty{}, nil // its release is under way
		}
		if e.Attached || d.known.inTheMaking(e.ID) {
			continue
		}
		if d.kept.end(e.ID) {
			return empty{}, nil // the container may only be stopped
		}
		err := d.Service.Release(ctx, e.ID)
		if err != nil && !final(err) {
			d.owed.add(e.ID)
		}
		return empty{}, err
	}
	d.kept.unasked(netip.PrefixFrom(ip, subnet.Bits()))
	network, ok := d.known.pool(subnet)
	if !ok {
		return empty{}, nil // the network is deleted, and its addresses with it
	}
	return empty{}, d.Service.Unhold(ctx, network, ip.String())
}
