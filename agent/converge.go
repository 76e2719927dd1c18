package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/link"
	"github.com/socketplane/socketplane/ovs"
)

// convergeTimeout bounds one pass.
const convergeTimeout = 30 * time.Second

// converge brings what is there to what should be, once. It may be called at
// any time and deletes only what is ours. compare says whether to read the
// switch's flows too, rather than trust what it was told. What fails is joined
// and does not stop the rest.
func (a *Agent) converge(ctx context.Context, compare bool) error {
	ctx, cancel := context.WithTimeout(ctx, convergeTimeout)
	defer cancel()
	if err := a.refreshSelf(); err != nil {
		return err
	}
	if !a.view.complete() {
		return nil
	}
	if !a.isLoaded() {
		if err := a.load(ctx); err != nil {
			return err
		}
	}
	errs := []error{a.convergeTunnels(ctx)}
	a.convergeWays(ctx)
	ports, err := a.Switch.Ports(ctx)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	errs = append(errs,
		a.convergePorts(ctx, ports),
		a.convergeVeths(ctx),
		a.convergeGateways(ctx, ports),
		a.convergeReleases(ctx),
	)
	if compare {
		a.compare.Store(true)
	}
	errs = append(errs, a.forwarding.Do(ctx), a.convergeLists(ctx))
	return errors.Join(errs...)
}

// refreshSelf looks again at this host's own address and MTU.
func (a *Agent) refreshSelf() error {
	self, err := a.Self()
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.self = self
	return nil
}

// convergeTunnels makes one tunnel to each other host.
func (a *Agent) convergeTunnels(ctx context.Context) error {
	var tunnels []ovs.Tunnel
	vtep := a.host().VTEP
	for _, h := range a.view.peers() {
		if h.VTEP != vtep { // a record that claims our own address would make a loop
			t := ovs.Tunnel{Peer: h.ID, Remote: h.VTEP}
			if !a.userspace() {
				// The userspace datapath would look this address up in a route
				// table that it throws away at every change of an interface.
				t.Local = vtep
			}
			tunnels = append(tunnels, t)
		}
	}
	ports, err := a.Switch.SetTunnels(ctx, tunnels)
	if ports == nil && err != nil {
		return fmt.Errorf("tunnels: %w", err)
	}
	a.mu.Lock()
	a.tunnels = maps.Clone(ports)
	a.mu.Unlock()
	return err
}

// convergePorts compares the endpoints' ports on the bridge with the table.
func (a *Agent) convergePorts(ctx context.Context, ports []ovs.Port) error {
	var errs []error
	there := map[string]ovs.Port{}
	for _, p := range ports {
		if p.Kind == ovs.KindEndpoint {
			there[p.IDs[idEndpoint]] = p
		}
	}
	for id := range there {
		if l, ok := a.table.get(id); !ok || !l.Attached {
			errs = append(errs, a.locked(ctx, id, a.dropStray))
		}
	}
	for _, l := range a.table.all() {
		if !l.Attached {
			continue
		}
		alive, err := a.Links.Exists(l.Port)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if p, ok := there[l.ID]; ok && alive && p.OFPort == l.OFPort {
			continue
		}
		errs = append(errs, a.locked(ctx, l.ID, a.mendPort))
	}
	return errors.Join(errs...)
}

// locked runs f for an endpoint under its lock, since what was seen before may
// have been an attach or detach half way.
func (a *Agent) locked(ctx context.Context, id string, f func(context.Context, string) error) error {
	unlock, err := a.ids.Lock(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	return f(ctx, id)
}

// dropStray takes away a port, and its veth, that no attached endpoint has.
func (a *Agent) dropStray(ctx context.Context, id string) error {
	if l, ok := a.table.get(id); ok && l.Attached {
		return nil
	}
	return a.unplug(ctx, id)
}

// mendPort puts an attached endpoint's port back on the bridge, or, when its
// interface is gone, takes the consequence.
func (a *Agent) mendPort(ctx context.Context, id string) error {
	l, ok := a.table.get(id)
	if !ok || !l.Attached {
		return nil
	}
	alive, err := a.Links.Exists(l.Port)
	if err != nil {
		return err
	}
	if !alive {
		return a.lost(ctx, l)
	}
	r, err := a.findNetwork(ctx, l.Network)
	if err != nil {
		return err
	}
	ofport, err := a.Switch.AddPort(ctx, port(l, r, a.view.mtu(a.host())))
	if err != nil {
		return err
	}
	l.OFPort = ofport
	a.table.put(l)
	return nil
}

// lost deals with an endpoint whose interface went away with its namespace: a
// Docker container has stopped and may come back, anything else is gone.
func (a *Agent) lost(ctx context.Context, l local) error {
	a.Logger.Info("the interface of an endpoint is gone", "endpoint", l.ID, "container", l.ContainerName, "network", l.Network)
	if l.Source == api.SourceDocker {
		return a.detach(ctx, l)
	}
	return a.release(ctx, l)
}

// convergeVeths deletes veth pairs that no attached endpoint has.
func (a *Agent) convergeVeths(ctx context.Context) error {
	names, err := a.Links.HostVeths()
	if err != nil {
		return err
	}
	owners := map[string]string{}
	for _, l := range a.table.all() {
		owners[link.HostName(l.ID)] = l.ID
	}
	var errs []error
	for _, name := range names {
		id, ok := owners[name]
		if !ok {
			errs = append(errs, a.Links.DeleteVeth(ctx, name))
			continue
		}
		if l, _ := a.table.get(id); !l.Attached {
			errs = append(errs, a.locked(ctx, id, a.dropStray))
		}
	}
	return errors.Join(errs...)
}

// convergeGateways has a gateway for each network that is used here, as it
// should be, and none for another.
func (a *Agent) convergeGateways(ctx context.Context, ports []ovs.Port) error {
	var errs []error
	for _, l := range a.table.all() {
		if !l.Attached {
			continue
		}
		r, err := a.findNetwork(ctx, l.Network)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		a.segments.enter(r, l.ID)
	}
	for networkID, users := range a.segments.users() {
		for _, id := range users {
			if l, ok := a.table.get(id); !ok || !l.Attached || l.Network != networkID {
				errs = append(errs, a.locked(ctx, id, func(ctx context.Context, id string) error {
					return a.dropUser(ctx, networkID, id)
				}))
			}
		}
	}
	for _, p := range ports {
		if p.Kind == ovs.KindGateway && !a.segments.used(p.IDs[idNetwork]) {
			errs = append(errs, a.mendGateway(ctx, p.IDs[idNetwork]))
		}
	}
	for _, seg := range a.segments.list() {
		errs = append(errs, a.mendGateway(ctx, seg.record.ID))
	}
	return errors.Join(errs...)
}

// dropUser counts out of a network who is not on it: an attach that failed may
// not have got so far with taking itself back.
func (a *Agent) dropUser(ctx context.Context, networkID, id string) error {
	if l, ok := a.table.get(id); ok && l.Attached && l.Network == networkID {
		return nil
	}
	return a.leave(ctx, networkID, id)
}

func (a *Agent) mendGateway(ctx context.Context, networkID string) error {
	unlock, err := a.segments.locks.Lock(ctx, networkID)
	if err != nil {
		return err
	}
	defer unlock()
	if !a.segments.used(networkID) {
		return a.dropGateway(ctx, networkID)
	}
	r, err := a.findNetwork(ctx, networkID)
	if err != nil {
		return err
	}
	return a.ensureGateway(ctx, r)
}

// convergeReleases finishes what could not be released while the store was away.
func (a *Agent) convergeReleases(ctx context.Context) error {
	var errs []error
	for _, l := range a.table.all() {
		if l.Releasing {
			errs = append(errs, a.locked(ctx, l.ID, func(ctx context.Context, id string) error {
				l, ok := a.table.get(id)
				if !ok || !l.Releasing {
					return nil
				}
				return a.release(ctx, l)
			}))
		}
	}
	return errors.Join(errs...)
}

// convergeLists publishes this host's endpoints where the store has other ones.
func (a *Agent) convergeLists(ctx context.Context) error {
	networks := map[string]bool{}
	for _, l := range a.table.all() {
		networks[l.Network] = true
	}
	a.pubMu.Lock()
	for id := range a.publishers {
		networks[id] = true
	}
	a.pubMu.Unlock()
	var errs []error
	for id := range networks {
		errs = append(errs, a.publish(ctx, id))
	}
	return errors.Join(errs...)
}

func (a *Agent) isLoaded() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.loaded
}
