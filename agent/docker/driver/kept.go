package driver

import (
	"context"
	"fmt"
	"net/netip"
	"sync"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/docker"
)

// A container that was given its address by name (--ip) has the same one after
// each start. Docker gives the address back when the container stops, and does not
// say whether it was stopped or removed. So the endpoint stays reserved until
// Docker's list of containers says that no container asks for the address any more.

// keptMost bounds what is remembered of addresses that were asked for by name.
const keptMost = 1 << 16

// kept are the endpoints whose address was asked for by name. It is made anew from
// Docker's list after a restart, see Sweep.
type kept struct {
	mu    sync.Mutex
	asks  map[netip.Prefix]bool // addresses, with the subnet's length, that no endpoint has come for yet
	named map[string]bool       // endpoints; true: Docker has given the address back
	wake  chan struct{}
	all   bool                           // look at every container: some may have been made unseen
	made  map[string]bool                // containers that Docker has just made
	begin chan struct{}                  // receives when made grows
	busy  map[netip.Prefix]chan struct{} // addresses that somebody asks the agent for; closed when that ends
}

func newKept() *kept {
	return &kept{
		asks: map[netip.Prefix]bool{}, named: map[string]bool{}, wake: make(chan struct{}, 1),
		made: map[string]bool{}, begin: make(chan struct{}, 1), busy: map[netip.Prefix]chan struct{}{},
	}
}

// asked says that Docker was given an address that it asked for by name.
func (k *kept) asked(addr netip.Prefix) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.asks) < keptMost {
		k.asks[addr] = true
	}
}

// unasked says that Docker gave an address back that no endpoint came for.
func (k *kept) unasked(addr netip.Prefix) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.asks, addr)
}

// begun says which endpoint an address is for.
func (k *kept) begun(endpoint string, addr netip.Prefix) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.asks[addr] && len(k.named) < keptMost {
		k.named[endpoint] = false
	}
	delete(k.asks, addr)
}

// name says that an endpoint's address was asked for by name.
func (k *kept) name(endpoint string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, ok := k.named[endpoint]; !ok && len(k.named) < keptMost {
		k.named[endpoint] = false
	}
}

// end says that Docker has given an endpoint's address back. It returns true if the
// address was asked for by name; then the endpoint stays until its container goes.
func (k *kept) end(endpoint string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, ok := k.named[endpoint]; !ok && !keepsForStart(endpoint) {
		return false
	}
	k.named[endpoint] = true
	k.lookLocked()
	return true
}

// ended says whether Docker has given back an endpoint's address, and it is kept.
func (k *kept) ended(endpoint string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.named[endpoint] || keepsForStart(endpoint)
}

// look has the kept endpoints compared with Docker's containers soon.
func (k *kept) look() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, ended := range k.named {
		if ended {
			k.lookLocked()
			return
		}
	}
}

func (k *kept) lookLocked() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// only forgets the endpoints that are not there any more.
func (k *kept) only(there map[string]bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for id, ended := range k.named {
		if ended && !there[id] {
			delete(k.named, id)
		}
	}
}

func (k *kept) forget(endpoint string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.named, endpoint)
}

// namedAddress is an address that a container asks for by name.
type namedAddress struct {
	docker.NamedAddress
	cluster segment // its network
}

// namedAddresses are the addresses that Docker's containers ask for by name, by
// network of the cluster and address, with the endpoint that has it now, if any.
type namedAddresses map[string]namedAddress

func (n namedAddresses) find(e api.Endpoint) (namedAddress, bool) {
	c, ok := n[e.Network+"/"+e.IP.String()]
	return c, ok
}

// has says whether a container asks for the address of an endpoint by name, and is
// on no other endpoint.
func (n namedAddresses) has(e api.Endpoint) bool {
	c, ok := n.find(e)
	return ok && (c.Endpoint == "" || c.Endpoint == e.ID)
}

// on says whether a container that asks for the address of an endpoint by name is on
// that endpoint.
func (n namedAddresses) on(e api.Endpoint) bool {
	c, ok := n.find(e)
	return ok && c.Endpoint == e.ID
}

func (d *Driver) namedAddresses(ctx context.Context, engine *docker.Engine) (namedAddresses, error) {
	list, err := engine.NamedAddresses(ctx)
	if err != nil {
		return nil, err
	}
	return byNetwork(ctx, engine, list)
}

// byNetwork tells on which networks of the cluster addresses are.
func byNetwork(ctx context.Context, engine *docker.Engine, list []docker.NamedAddress) (namedAddresses, error) {
	if len(list) == 0 {
		return nil, nil
	}
	networks, err := engine.Networks(ctx)
	if err != nil {
		return nil, err
	}
	clusters := map[string]segment{} // Docker's id or name of a network -> network of the cluster
	for _, n := range networks {
		if n.Driver == docker.DriverName {
			s := segment{n.StandsFor(), n.Subnet}
			clusters[n.ID], clusters[n.Name] = s, s
		}
	}
	named := namedAddresses{}
	for _, c := range list {
		s, ok := clusters[c.Network]
		if !ok {
			s, ok = clusters[c.NetworkID]
		}
		if !ok {
			continue
		}
		key := s.network + "/" + c.IP.String()
		if old, twice := named[key]; !twice || old.Endpoint == "" { // of two that want it, the one that runs has it
			named[key] = namedAddress{c, s}
		}
	}
	return named, nil
}

// keep compares the kept endpoints with Docker's containers whenever one of them
// may have changed, until ctx ends.
func (d *Driver) keep(ctx context.Context, engine *docker.Engine) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.kept.wake:
		}
		if err := d.compareKept(ctx, engine); err != nil && ctx.Err() == nil {
			// The next sweep tries again.
			d.Logger.Warn("it is not known whether stopped containers still need their addresses", "err", err)
		}
	}
}

// compareKept releases the kept endpoints whose address no container asks for any
// more, and tells the agent whose the others are.
func (d *Driver) compareKept(ctx context.Context, engine *docker.Engine) error {
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	endpoints, err := d.Service.Endpoints(ctx)
	if err != nil {
		return err
	}
	named, err := d.namedAddresses(ctx, engine)
	if err != nil {
		return err
	}
	there := map[string]bool{}
	for _, e := range endpoints {
		there[e.ID] = true
		if !d.kept.ended(e.ID) || e.Attached {
			continue
		}
		if named.has(e) {
			d.describeKept(ctx, named, e)
			continue
		}
		if err := d.Service.Release(ctx, e.ID); err != nil {
			d.owed.add(e.ID)
			return fmt.Errorf("release the address of a container that is gone: %w", err)
		}
		d.kept.forget(e.ID)
		d.Logger.Info("released the address of a container that is gone", "endpoint", e.ID, "container", e.ContainerName, "network", e.Network, "ip", e.IP)
	}
	d.kept.only(there)
	return nil
}

// describeKept tells the agent whose address is kept: a container that ran for a
// moment only may not have been described.
func (d *Driver) describeKept(ctx context.Context, named namedAddresses, e api.Endpoint) {
	c, _ := named.find(e)
	if e.ContainerID == c.Container && e.ContainerName == c.Name {
		return
	}
	_, err := d.Service.Describe(ctx, api.DescribeRequest{ID: e.ID, ContainerID: c.Container, ContainerName: c.Name})
	if err != nil && api.CodeOf(err) != api.CodeNotFound {
		d.Logger.Warn("a container's name is not known", "container", c.Container, "err", err)
	}
}

// keptAs gives the endpoint that keeps an address for a stopped container; empty:
// none does.
func (d *Driver) keptAs(ctx context.Context, network, address string) string {
	ip, err := netip.ParseAddr(address)
	if err != nil { // none was asked for
		return ""
	}
	endpoints, err := d.Service.Endpoints(ctx)
	if err != nil { // Hold says why the agent cannot
		return ""
	}
	for _, e := range endpoints {
		if e.Network == network && e.IP == ip && d.kept.ended(e.ID) {
			return e.ID
		}
	}
	return ""
}

// releaseKept gives back what is kept on a network that a user removes: Docker
// removes a network although stopped containers name it. A network that stays keeps
// what is kept there: one that was not made through Docker, and one that anything else
// is on, here or on another host.
func (d *Driver) releaseKept(ctx context.Context, s segment) error {
	n, err := d.Service.Network(ctx, s.network)
	if err != nil || !n.ByDocker || n.Subnet != s.subnet {
		return nil // whoever deletes it says why it cannot be
	}
	endpoints, err := d.Service.Endpoints(ctx)
	if err != nil {
		return err
	}
	var kept []string
	for _, e := range endpoints {
		switch {
		case e.Network != s.network:
		case e.Attached || !d.kept.ended(e.ID):
			return nil // as above
		default:
			kept = append(kept, e.ID)
		}
	}
	if len(kept) == 0 {
		return nil
	}
	if err := d.Service.UsedElsewhere(ctx, s.network); err != nil {
		return err
	}
	for _, id := range kept {
		if err := d.Service.Release(ctx, id); err != nil {
			return err
		}
		d.kept.forget(id)
	}
	return nil
}
