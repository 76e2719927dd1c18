package driver

import (
	"context"
	"fmt"
	"net/netip"
	"sync"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/docker"
)

// A container that requested its address by name (--ip) has the same address after each
// start. Docker releases the address when the container stops, and does not say whether
// the container was stopped or removed. So the endpoint stays reserved until no container
// in Docker's list requests the address.

// keptMost bounds each set of addresses that were requested by name.
const keptMost = 1 << 16

// kept contains the endpoints whose address was requested by name. Sweep rebuilds it from
// Docker's list after a restart.
type kept struct {
	mu    sync.Mutex
	asks  map[netip.Prefix]bool // addresses, with the subnet's length, whose endpoint does not exist yet
	named map[string]bool       // endpoints; true: Docker has released the address
	wake  chan struct{}
	all   bool                           // look at every container, because events may have been missed
	made  map[string]bool                // containers that Docker has just created
	begin chan struct{}                  // receives a value when made grows or all is set
	busy  map[netip.Prefix]chan struct{} // addresses that a goroutine requests from the agent; closed when it is done
}

func newKept() *kept {
	return &kept{
		asks: map[netip.Prefix]bool{}, named: map[string]bool{}, wake: make(chan struct{}, 1),
		made: map[string]bool{}, begin: make(chan struct{}, 1), busy: map[netip.Prefix]chan struct{}{},
	}
}

// asked records that Docker was given an address that it requested by name.
func (k *kept) asked(addr netip.Prefix) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.asks) < keptMost {
		k.asks[addr] = true
	}
}

// unasked records that Docker released an address before an endpoint used it.
func (k *kept) unasked(addr netip.Prefix) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.asks, addr)
}

// begun records which endpoint uses an address.
func (k *kept) begun(endpoint string, addr netip.Prefix) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.asks[addr] && len(k.named) < keptMost {
		k.named[endpoint] = false
	}
	delete(k.asks, addr)
}

// name records that the address of an endpoint was requested by name.
func (k *kept) name(endpoint string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, ok := k.named[endpoint]; !ok && len(k.named) < keptMost {
		k.named[endpoint] = false
	}
}

// end records that Docker has released the address of an endpoint. It returns true if the
// address was requested by name. In that case the endpoint stays until its container is
// gone.
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

// ended reports whether an endpoint is kept although Docker does not use its address now.
func (k *kept) ended(endpoint string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.named[endpoint] || keepsForStart(endpoint)
}

// look schedules a comparison of the kept endpoints with Docker's containers.
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

// only removes the endpoints that no longer exist.
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

// namedAddress is an address that a container requests by name.
type namedAddress struct {
	docker.NamedAddress
	cluster segment // its network
}

// namedAddresses contains the addresses that Docker's containers request by name. The key
// is the network of the cluster and the address. Each value includes the container's
// current endpoint, if any.
type namedAddresses map[string]namedAddress

func (n namedAddresses) find(e api.Endpoint) (namedAddress, bool) {
	c, ok := n[e.Network+"/"+e.IP.String()]
	return c, ok
}

// has reports whether a container requests the address of e by name and is on no other
// endpoint.
func (n namedAddresses) has(e api.Endpoint) bool {
	c, ok := n.find(e)
	return ok && (c.Endpoint == "" || c.Endpoint == e.ID)
}

// on reports whether a container that requests the address of e by name is on e.
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

// byNetwork maps the addresses to the networks of the cluster. It skips addresses on
// networks of other drivers.
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
		if old, twice := named[key]; !twice || old.Endpoint == "" { // if two containers request it, prefer the one that is running
			named[key] = namedAddress{c, s}
		}
	}
	return named, nil
}

// keep compares the kept endpoints with Docker's containers whenever either may have
// changed, until ctx ends.
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

// compareKept releases the kept endpoints whose address no container requests any more. It
// describes the containers of the others to the agent.
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

// describeKept describes the container of a kept endpoint to the agent. A container that
// ran only briefly may not have been described yet.
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

// keptAs returns the id of the endpoint that keeps an address for a stopped container, or
// "" if there is none.
func (d *Driver) keptAs(ctx context.Context, network, address string) string {
	ip, err := netip.ParseAddr(address)
	if err != nil { // no address was requested
		return ""
	}
	endpoints, err := d.Service.Endpoints(ctx)
	if err != nil { // Hold reports the error of the agent
		return ""
	}
	for _, e := range endpoints {
		if e.Network == network && e.IP == ip && d.kept.ended(e.ID) {
			return e.ID
		}
	}
	return ""
}

// releaseKept releases the kept endpoints of a network that a user removes. Docker removes
// a network even if stopped containers refer to it. releaseKept releases nothing if the
// network will stay, because it was not created through Docker or because other endpoints
// on any host use it.
func (d *Driver) releaseKept(ctx context.Context, s segment) error {
	n, err := d.Service.Network(ctx, s.network)
	if err != nil || !n.ByDocker || n.Subnet != s.subnet {
		return nil // the deletion itself reports the error
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
			return nil // the network stays
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
