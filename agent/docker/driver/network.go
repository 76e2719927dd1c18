package driver

import (
	"context"
	"encoding/json"
	"net/netip"
	"time"

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
	Pool         string            // CIDR
	Gateway      string            // with the subnet's length
	AuxAddresses map[string]string // by the user's names; with the subnet's length
}

// Keys of a network's options.
const (
	optionGeneric  = "com.docker.network.generic" // options of -o
	optionInternal = "com.docker.network.internal"
	optionIPv4     = "com.docker.network.enable_ipv4" // Docker 28 and newer
)

// createNetwork adds a Docker network to the cluster. The Docker network is one that the
// driver itself creates for an existing network, one that names its network with -o, or
// one whose name is known only a moment later (see named).
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
	ours, err := d.known.adopts(req.NetworkID, w.subnet)
	switch {
	case err != nil:
		return empty{}, err
	case ours != "":
		return empty{}, d.adopt(ctx, req.NetworkID, ours, w)
	case name == "":
		if err := d.known.await(req.NetworkID, w); err != nil {
			return empty{}, err
		}
		time.AfterFunc(syncRetry, d.lookForNames)
		return empty{}, nil
	}
	w.given.Options = map[string]string{}
	for k, v := range generic {
		if s, ok := v.(string); ok {
			w.given.Options[k] = s
		}
	}
	d.known.expect(name, req.NetworkID)
	err = d.enter(ctx, req.NetworkID, name, w)
	if err != nil {
		d.known.unexpect(name, req.NetworkID)
	}
	return empty{}, err
}

// adopt binds a Docker network that the driver creates to its network. It fails if the
// network has been deleted in the meantime, and does not create it again.
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

// enter creates the network of a Docker network in the cluster, or finds it.
func (d *Driver) enter(ctx context.Context, id, name string, w wish) error {
	req := api.CreateNetworkRequest{ID: name, Subnet: w.subnet.String(), ByDocker: true}
	if w.gateway.IsValid() {
		req.Gateway = w.gateway.String()
	}
	// Docker has created the network by now, so options and labels that the cluster cannot
	// store are only withheld from other hosts.
	if err := w.given.Check(); err != nil {
		d.Logger.Warn("a docker network's options and labels are kept from the other hosts", "network", name, "err", err)
		w.given = api.DockerSpec{Aux: w.given.Aux}
	}
	req.Docker = &w.given
	if err := d.known.awaitDeletion(ctx, name); err != nil {
		return err
	}
	n, err := d.Service.CreateNetwork(ctx, req)
	if err != nil {
		return err
	}
	d.unreserve(n.Subnet)
	if !d.known.bind(id, n.ID, n.Subnet) {
		return d.deleteLate(segment{n.ID, n.Subnet}) // Docker deleted it without waiting for us
	}
	return nil
}

func readWish(req networkRequest) (wish, error) {
	if err := checkKind(req.Options); err != nil {
		return wish{}, err
	}
	switch {
	case len(req.IPv6Data) > 0:
		return wish{}, api.Errorf(api.CodeInvalid, "networks are IPv4; leave out --ipv6 and IPv6 subnets")
	case len(req.IPv4Data) != 1:
		return wish{}, api.Errorf(api.CodeInvalid, "a network has one subnet, not %d", len(req.IPv4Data))
	case req.IPv4Data[0].AddressSpace != addressSpace:
		return wish{}, api.Errorf(api.CodeInvalid, "Docker's own addresses are each host's and would be given twice; add --ipam-driver %s", docker.DriverName)
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
	w := wish{subnet: subnet, gateway: gateway.Addr()}
	w.given.Aux, err = readAux(req.IPv4Data[0].AuxAddresses, subnet, gateway.Addr())
	return w, err
}

// readAux parses the addresses that a network withholds from its containers.
func readAux(given map[string]string, subnet netip.Prefix, gateway netip.Addr) (map[string]netip.Addr, error) {
	if len(given) == 0 {
		return nil, nil
	}
	aux := map[string]netip.Addr{}
	for name, text := range given {
		addr, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, api.Errorf(api.CodeInvalid, "--aux-address %.40q is no address of %s", text, subnet)
		}
		if err := checkAux(addr.Addr(), subnet); err != nil {
			return nil, err
		}
		if addr.Addr() == gateway {
			return nil, api.Errorf(api.CodeInvalid, "--aux-address %s is the network's gateway; leave it out", gateway)
		}
		aux[name] = addr.Addr()
	}
	return aux, api.DockerSpec{Aux: aux}.Check()
}

// checkAux rejects addresses that no container can have anyway.
func checkAux(addr netip.Addr, subnet netip.Prefix) error {
	switch {
	case !subnet.Contains(addr):
		return api.Errorf(api.CodeInvalid, "--aux-address %s is not in %s", addr, subnet)
	case addr == subnet.Addr() || !subnet.Contains(addr.Next()):
		return api.Errorf(api.CodeInvalid, "--aux-address %s is the network or broadcast address of %s; leave it out", addr, subnet)
	}
	return nil
}

type gatewayQuestion struct{ Options map[string]json.RawMessage }

// gatewaySkips tells Docker for which address families it need not choose a gateway.
type gatewaySkips struct{ SkipIPv4, SkipIPv6 bool }

// gatewayCheck tells Docker that every network has an IPv4 gateway and no IPv6 gateway. It
// rejects unsupported kinds of networks before Docker requests a subnet.
func gatewayCheck(_ context.Context, req gatewayQuestion) (gatewaySkips, error) {
	return gatewaySkips{SkipIPv6: true}, checkKind(req.Options)
}

// checkKind rejects unsupported kinds of networks.
func checkKind(options map[string]json.RawMessage) error {
	switch {
	case string(options[optionIPv4]) == "false":
		return api.Errorf(api.CodeInvalid, "networks are IPv4; leave out --ipv4=false")
	case string(options[optionInternal]) == "true":
		return api.Errorf(api.CodeInvalid, "--internal cannot be used: every network reaches the outside; leave it out")
	}
	return nil
}

type networkRef struct{ NetworkID string }

// deleteNetwork removes a network from the cluster when a user removes the Docker network
// that created it. Docker proceeds even if this fails, and only logs the error. In that
// case the Docker network comes back, because the network still exists. The Docker network
// of a network that was not created through Docker also comes back, because a docker
// system prune on one host must not affect all hosts.
func (d *Driver) deleteNetwork(ctx context.Context, req networkRef) (empty, error) {
	if _, known := d.known.network(req.NetworkID); !known && !d.known.isRemoving(req.NetworkID) {
		d.learn(ctx, req.NetworkID)
	}
	if w, awaited := d.known.awaited(req.NetworkID); awaited {
		d.unreserve(w.subnet)
	}
	s, end := d.known.deleted(req.NetworkID)
	d.reserved.frees(s.subnet)
	defer d.soon()
	defer end()
	if s.network == "" {
		return empty{}, nil // removed by us, or never named; or see make
	}
	return empty{}, d.deleteFromCluster(ctx, s)
}

// deleteFromCluster deletes a network and the kept endpoints on it. It succeeds if the
// network is gone.
func (d *Driver) deleteFromCluster(ctx context.Context, s segment) error {
	if err := d.releaseKept(ctx, s); err != nil {
		return err
	}
	err := d.Service.DeleteDockersNetwork(ctx, s.network, s.subnet)
	if err != nil && api.CodeOf(err) != api.CodeNotFound {
		return err
	}
	return nil
}

// learn waits until more may be known about an unknown Docker network. Either the network
// is just being entered in the cluster, or Docker's list has not been read since the agent
// started.
func (d *Driver) learn(ctx context.Context, id string) {
	if entered := d.known.entered(id); entered != nil {
		select {
		case <-entered:
		case <-ctx.Done():
		}
		return
	}
	if _, awaited := d.known.awaited(id); awaited {
		return
	}
	wait := time.NewTimer(learnTime)
	defer wait.Stop()
	select {
	case <-d.known.compared:
	case <-wait.C: // a starting dockerd first finishes old deletions, and answers no list until then
	case <-ctx.Done():
	}
}

// learnTime bounds the wait for Docker's list.
const learnTime = 2 * time.Second

// deleteLate deletes a network whose Docker network was deleted during its creation,
// unless another Docker network stands for it by now.
func (d *Driver) deleteLate(s segment) error {
	defer d.soon()
	end, ok := d.known.deletesLate(s)
	if !ok {
		return nil
	}
	defer end()
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	return d.deleteFromCluster(ctx, s)
}

// lookForNames schedules a comparison if a network waits for its name. Docker's event
// usually delivers the name sooner but may be delayed.
func (d *Driver) lookForNames() {
	if d.known.waiting() {
		d.soon()
	}
}

// soon schedules a comparison of the networks.
func (d *Driver) soon() {
	select {
	case d.kick <- struct{}{}:
	default:
	}
}
