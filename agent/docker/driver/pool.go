package driver

import (
	"context"
	"errors"
	"net/netip"
	"strings"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/docker"
)

// An IPAM pool is a network's subnet, and so is its id: subnets never overlap, and
// the id means the same after every restart. Where docker network create was given an
// --ip-range, that follows: Docker keeps the id, and so the range, for this host.

// parsePool reads a pool's id. The zero Prefix as range: the whole subnet.
func parsePool(id string) (subnet, within netip.Prefix, err error) {
	text, part, ranged := strings.Cut(id, ",")
	if subnet, err = api.ParseSubnet(text); err == nil && ranged {
		within, err = api.ParseRange(part, subnet)
	}
	return subnet, within, err
}

type poolRequest struct {
	Pool, SubPool string
	Options       map[string]string // what --ipam-opt gave
	V6            bool
}

type poolAnswer struct {
	PoolID, Pool string
	Data         map[string]string
}

// requestPool checks the subnet of a Docker network that is being made, or
// chooses a free one, and reserves it. The network itself is made when its name is known.
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
			// Docker on this host is about to have it, or has it no more since a user
			// has just removed it. It may be the same network: its name tells.
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

// Docker asks for a gateway's address in the words of its IPAM contract.
const (
	optionType  = "RequestAddressType"
	typeGateway = "com.docker.network.gateway"
)

// requestAddress holds an address until its endpoint comes, or gives a network's
// gateway, which is nobody's to hold.
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
	ip, _ := netip.ParseAddr(req.Address) // none: a dynamic one
	if ip.IsValid() && d.reserved.has(subnet) && !d.known.anyAwaited(subnet) {
		// Of a network that Docker makes, which no container can be on. The network's
		// creation keeps the address.
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
			// Docker asks for such an address when it makes the network of one that is
			// there. A container that asks for it is refused when its endpoint is made.
			if spec, specErr := d.Service.DockerSpec(ctx, network, subnet); specErr == nil && spec.Keeps(ip) {
				held = api.Hold{}
				return nil
			}
		}
		if err != nil || subnet.Contains(held.IP) {
			return err
		}
		// The network went and came again, with another subnet.
		return errors.Join(api.Errorf(api.CodeNotFound, "network %q has not subnet %s any more", network, subnet), d.Service.Unhold(ctx, network, held.IP.String()))
	})
	if err != nil {
		return addressAnswer{}, err
	}
	if !held.IP.IsValid() {
		return answerAddress(ip, subnet), nil
	}
	if ctx.Err() != nil { // Docker has given up, and gives nothing back
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
		defer cancel()
		return addressAnswer{}, errors.Join(errLate, d.Service.Unhold(ctx, held.Network, held.IP.String()))
	}
	if req.Address != "" {
		d.kept.asked(netip.PrefixFrom(held.IP, subnet.Bits()))
	}
	return answerAddress(held.IP, subnet), nil
}

// checkGateway refuses what can be no host's address. Docker has printed the
// network's id by the time the cluster would refuse it.
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

// onNetwork calls f with the network that has a subnet. One that Docker has just
// made is not in the cluster yet: it is waited for. A name from memory that turns
// out to be of old is looked up once more.
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

// releaseAddress gives an address back: that of an endpoint that Docker has
// deleted, or one that no endpoint came for. Not that of an endpoint in the
// making: another container asked for the same address, and lost.
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
			return empty{}, nil // it is on its way
		}
		if e.Attached || d.known.inTheMaking(e.ID) {
			continue
		}
		if d.kept.end(e.ID) {
			return empty{}, nil // the container may be stopped only
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
		return empty{}, nil // a network that went: its addresses went with it
	}
	return empty{}, d.Service.Unhold(ctx, network, ip.String())
}
