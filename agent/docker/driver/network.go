package driver

import (
	"context"
	"encoding/json"
	"net/netip"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/docker"
)

type networkRequest struct {
	NetworkID string
	Options   map[string]json.RawMessage
	IPv4Data  []ipamData
	IPv6Data  []ipamData
}

type ipamData struct {
	AddressSpace string
	Pool         string                     // CIDR
	Gateway      string                     // with the subnet's length
	AuxAddresses map[string]json.RawMessage // reserved for others
}

// Keys of a network's options.
const (
	optionGeneric  = "com.docker.network.generic" // what -o gave
	optionInternal = "com.docker.network.internal"
	optionIPv4     = "com.docker.network.enable_ipv4" // Docker 28 and newer
)

// createNetwork takes a Docker network into the cluster: one that we make
// ourselves for a network that is there, one that names its network with -o, or
// one whose name Docker tells a moment later, see named.
func (d *Driver) createNetwork(ctx context.Context, req networkRequest) (empty, error) {
	if err := api.CheckEndpointID(req.NetworkID); err != nil {
		return empty{}, err
	}
	w, err := readWish(req)
	if err != nil {
		return empty{}, err
	}
	var generic map[string]any
	if raw, ok := req.Options[optionGeneric]; ok {
		if err := json.Unmarshal(raw, &generic); err != nil {
			return empty{}, api.Errorf(api.CodeInvalid, "options of the network: %w", err)
		}
	}
	if err := d.checkNetworkOptions(ctx, generic); err != nil {
		return empty{}, err
	}
	name, _ := generic[docker.OptionNetwork].(string)
	if name == "" {
		d.known.await(req.NetworkID, w)
		return empty{}, nil
	}
	if d.known.ours(w.subnet) {
		return empty{}, d.adopt(ctx, req.NetworkID, name, w)
	}
	d.known.expect(name)
	return empty{}, d.enter(ctx, req.NetworkID, name, w)
}

// adopt binds a Docker network that we make to its network. That one is not made
// again, should somebody have deleted it meanwhile.
func (d *Driver) adopt(ctx context.Context, id, name string, w wish) error {
	n, err := d.Service.Network(ctx, name)
	if err != nil {
		return err
	}
	if n.Subnet != w.subnet {
		return api.Errorf(api.CodeConflict, "network %q has subnet %s meanwhile", name, n.Subnet)
	}
	d.known.bind(id, n.ID, n.Subnet)
	return nil
}

// enter makes the network of a Docker network in the cluster, or finds it.
func (d *Driver) enter(ctx context.Context, id, name string, w wish) error {
	req := api.CreateNetworkRequest{ID: name, Subnet: w.subnet.String(), ByDocker: true}
	if w.gateway.IsValid() {
		req.Gateway = w.gateway.String()
	}
	n, err := d.Service.CreateNetwork(ctx, req)
	if err != nil {
		return err
	}
	d.known.bind(id, n.ID, n.Subnet)
	return nil
}

func readWish(req networkRequest) (wish, error) {
	switch {
	case string(req.Options[optionIPv4]) == "false":
		return wish{}, api.Errorf(api.CodeInvalid, "networks are IPv4; leave out --ipv4=false")
	case len(req.IPv6Data) > 0:
		return wish{}, api.Errorf(api.CodeInvalid, "networks are IPv4; leave out --ipv6 and IPv6 subnets")
	case len(req.IPv4Data) != 1:
		return wish{}, api.Errorf(api.CodeInvalid, "a network has one subnet, not %d", len(req.IPv4Data))
	case req.IPv4Data[0].AddressSpace != addressSpace:
		return wish{}, api.Errorf(api.CodeInvalid, "Docker's own addresses are each host's and would be given twice; add --ipam-driver %s", docker.DriverName)
	case len(req.IPv4Data[0].AuxAddresses) > 0:
		return wish{}, api.Errorf(api.CodeInvalid, "--aux-address cannot be used; give what needs the address a name with: socketplane connect --ip")
	case string(req.Options[optionInternal]) == "true":
		return wish{}, api.Errorf(api.CodeInvalid, "--internal cannot be used: every network reaches the outside; leave it out")
	}
	subnet, err := api.ParseSubnet(req.IPv4Data[0].Pool)
	if err != nil {
		return wish{}, err
	}
	gateway, err := netip.ParsePrefix(req.IPv4Data[0].Gateway)
	if err != nil {
		return wish{}, api.Errorf(api.CodeInvalid, "gateway %.40q is no address of %s", req.IPv4Data[0].Gateway, subnet)
	}
	if err := checkGateway(gateway.Addr(), subnet); err != nil {
		return wish{}, err
	}
	return wish{subnet: subnet, gateway: gateway.Addr()}, nil
}

type networkRef struct{ NetworkID string }

// deleteNetwork takes a network out of the cluster, when a user removes the
// Docker network with which it was made. Docker goes on when this fails, and tells
// nobody why but its log: the Docker network then comes back, since the network is
// still there. So does that of a network which nobody made through Docker: a
// docker system prune on one host is not meant for all.
func (d *Driver) deleteNetwork(ctx context.Context, req networkRef) (empty, error) {
	name, subnet := d.known.forget(req.NetworkID)
	if name == "" || d.known.beingMade(name) {
		return empty{}, nil // removed by us, or never named; or Docker takes back what it could not make for us
	}
	defer d.soon()
	if err := d.releaseKept(ctx, name); err != nil {
		return empty{}, err
	}
	err := d.Service.DeleteDockersNetwork(ctx, name, subnet)
	if err != nil && api.CodeOf(err) != api.CodeNotFound {
		return empty{}, err
	}
	return empty{}, nil
}

// soon has the networks compared.
func (d *Driver) soon() {
	select {
	case d.kick <- struct{}{}:
	default:
	}
}
