package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/link"
	"github.com/socketplane/socketplane/ovs"
)

// lockedID is locked for the endpoint with this id.
func (a *Agent) lockedID(ctx context.Context, id string, f func(context.Context, string) error) error {
	return a.locked(ctx, link.HostName(id), func(ctx context.Context) error { return f(ctx, id) })
}

// convergePorts compares the endpoints' ports on the bridge with the table. It returns
// the ids of attached endpoints whose interface is gone.
func (a *Agent) convergePorts(ctx context.Context, ports []ovs.Port) (lost []string, err error) {
	var errs []error
	var noted []string
	there := map[string]ovs.Port{}
	for _, p := range ports {
		if p.Kind != ovs.KindEndpoint {
			continue
		}
		there[p.Name] = p
		if l, ok := a.table.atPort(p.Name); ok {
			if !l.Attached {
				errs = append(errs, a.lockedID(ctx, l.ID, a.dropStray))
			}
			continue
		}
		l, err := localOf(p)
		if err != nil {
			noted = append(noted, notePort+p.Name)
			a.note(notePort+p.Name, err.Error()+"; it is left alone: remove it with ovs-vsctl del-port if nobody needs it")
			continue
		}
		errs = append(errs, a.lockedID(ctx, l.ID, a.dropStray))
	}
	a.clearNotes(notePort, noted...)
	for _, l := range a.table.all() {
		if !l.Attached {
			continue
		}
		name := link.HostName(l.ID)
		s, err := a.Links.Inspect(name)
		switch {
		case err != nil:
			errs = append(errs, err)
		case !s.Exists:
			lost = append(lost, l.ID)
		default:
			errs = append(errs, a.convergePort(ctx, name, l, s, there))
		}
	}
	return lost, errors.Join(errs...)
}

// convergePort repairs the port and the MTU of an attached endpoint whose interface
// exists.
func (a *Agent) convergePort(ctx context.Context, name string, l local, s link.State, there map[string]ovs.Port) error {
	p, ok := there[name]
	r, known := a.segments.record(l.Network)
	if !ok || p.OFPort != l.OFPort || !maps.Equal(p.IDs, port(l, r, 0).IDs) || known && p.VLAN != r.VLAN {
		if err := a.lockedID(ctx, l.ID, a.plugAgain); err != nil {
			return err
		}
	}
	if mtu := a.view.mtu(a.host()); s.MTU != mtu {
		return a.lockedID(ctx, l.ID, a.mendMTU)
	}
	a.clearNotes(noteMTU + l.ID)
	return nil
}

// dropStray removes a port and its veth unless an attached endpoint has them.
func (a *Agent) dropStray(ctx context.Context, id string) error {
	if l, ok := a.table.get(id); ok && l.Attached {
		return nil
	}
	return a.unplug(ctx, id)
}

// mendPort puts an attached endpoint's port back on the bridge. If its interface is gone,
// mendPort handles the endpoint as lost.
func (a *Agent) mendPort(ctx context.Context, id string) error {
	l, ok := a.table.get(id)
	if !ok || !l.Attached {
		return nil
	}
	s, err := a.Links.Inspect(l.Port)
	if err != nil {
		return err
	}
	if !s.Exists {
		return a.lost(ctx, l)
	}
	return a.plugAgain(ctx, id)
}

// plugAgain restores an attached endpoint's port on the bridge.
func (a *Agent) plugAgain(ctx context.Context, id string) error {
	l, ok := a.table.get(id)
	if !ok || !l.Attached {
		return nil
	}
	r := a.recordHere(l.Network)
	ofport, err := a.Switch.AddPort(ctx, port(l, r, a.view.mtu(a.host())))
	if err != nil {
		return err
	}
	l.OFPort = ofport
	a.table.put(l)
	return nil
}

// mendMTU applies a changed underlay MTU to both ends of an endpoint. If the container's
// namespace cannot be found any more, both ends keep their MTU: changing only one would
// drop large packets even between containers on this host.
func (a *Agent) mendMTU(ctx context.Context, id string) error {
	l, ok := a.table.get(id)
	if !ok || !l.Attached {
		return nil
	}
	mtu := a.view.mtu(a.host())
	found := false
	if l.NetNS != "" {
		var err error
		if found, err = a.Links.PeerIn(l.Port, l.NetNS); err != nil {
			return err
		}
	}
	if !found {
		a.note(noteMTU+id, fmt.Sprintf("%q keeps the MTU that it began with, since its namespace is not known any more; restart it to give it %d", id, mtu))
		return nil
	}
	if err := a.Links.SetPeerMTU(ctx, l.Port, l.NetNS, mtu); err != nil {
		return err
	}
	if err := a.Links.SetMTU(ctx, l.Port, mtu); err != nil {
		return err
	}
	a.clearNotes(noteMTU + id)
	return nil
}

// endsWithInterface reports whether the loss of the interface is the only sign that an
// endpoint has ended.
func endsWithInterface(s api.Source) bool {
	return s != api.SourceDocker && s != api.SourceDriver
}

// lost handles an endpoint whose interface disappeared with its namespace. A Docker
// container has stopped: it may start again, or Docker will release its address. Any
// other endpoint is gone.
func (a *Agent) lost(ctx context.Context, l local) error {
	a.Logger.Info("the interface of an endpoint is gone", "endpoint", l.ID, "container", l.ContainerName, "network", l.Network)
	if endsWithInterface(l.Source) {
		return a.release(ctx, l)
	}
	return a.detach(ctx, l)
}

// convergeVeths deletes veth pairs that no attached endpoint has, except those whose port
// convergePorts leaves alone.
func (a *Agent) convergeVeths(ctx context.Context, ports []ovs.Port) error {
	names, err := a.Links.HostVeths()
	if err != nil {
		return err
	}
	left := map[string]bool{}
	for _, p := range ports {
		if _, err := localOf(p); p.Kind == ovs.KindEndpoint && err != nil {
			left[p.Name] = true
		}
	}
	var errs []error
	for _, name := range names {
		if l, ok := a.table.atPort(name); ok {
			if !l.Attached {
				errs = append(errs, a.lockedID(ctx, l.ID, a.dropStray))
			}
		} else if !left[name] {
			errs = append(errs, a.locked(ctx, name, func(ctx context.Context) error { return a.dropVeth(ctx, name) }))
		}
	}
	return errors.Join(errs...)
}

// dropVeth deletes a veth pair unless an endpoint has it by now.
func (a *Agent) dropVeth(ctx context.Context, name string) error {
	if _, ok := a.table.atPort(name); ok {
		return nil
	}
	return a.Links.DeleteVeth(ctx, name)
}
