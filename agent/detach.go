package agent

import (
	"context"
	"errors"

	"golang.org/x/sync/errgroup"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/state"
)

// Detach implements api.Service. It returns when the detach is under way: a
// container's end waits for it, and whatever comes next for the same id waits
// for the lock.
func (a *Agent) Detach(ctx context.Context, id string) error {
	if err := api.CheckEndpointID(id); err != nil {
		return err
	}
	unlock, err := a.ids.Lock(ctx, id)
	if err != nil {
		return err
	}
	l, ok := a.table.get(id)
	if !ok || !l.Attached {
		unlock()
		return nil
	}
	l = a.markDetached(l)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), convergeTimeout)
	go func() {
		defer cancel()
		defer unlock()
		if err := a.detach(ctx, l); err != nil {
			a.Logger.Warn("detach is not complete; trying on", "endpoint", id, "container", l.ContainerName, "err", err)
			return
		}
		a.Logger.Info("detached", "endpoint", id, "container", l.ContainerName, "network", l.Network)
	}()
	return nil
}

// markDetached makes the endpoint one that only holds its address.
func (a *Agent) markDetached(l local) local {
	l.Port, l.OFPort, l.Attached = "", 0, false
	a.table.put(l)
	return l
}

// detach takes the interface away and keeps the address. It goes as far as it
// can: what fails is found and finished by the converge loop. The caller holds
// the lock on the id.
func (a *Agent) detach(ctx context.Context, l local) error {
	l = a.markDetached(l)
	var g errgroup.Group
	g.Go(func() error { return a.unplug(ctx, l.ID) })
	g.Go(func() error {
		// The network's last endpoint takes the network's gateway and flows with it.
		return errors.Join(a.leave(ctx, l.Network, l.ID), a.forwarding.Do(ctx))
	})
	g.Go(func() error {
		err := a.publish(ctx, l.Network)
		if errors.Is(err, state.ErrUnavailable) {
			signal(a.kick) // the container is gone here, whether or not others can be told now
			return nil
		}
		return err
	})
	err := g.Wait()
	if err != nil {
		signal(a.kick)
	}
	return err
}

// Release implements api.Service.
func (a *Agent) Release(ctx context.Context, id string) error {
	if err := api.CheckEndpointID(id); err != nil {
		return err
	}
	if err := a.checkLoaded(); err != nil {
		return err
	}
	unlock, err := a.ids.Lock(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	l, ok := a.table.get(id)
	if !ok {
		return nil
	}
	if err := a.release(ctx, l); err != nil {
		return translate(err)
	}
	a.Logger.Info("released", "endpoint", id, "container", l.ContainerName, "network", l.Network, "ip", l.IP)
	return nil
}

// release detaches and gives the address back. When the store is away the
// endpoint stays marked, and the converge loop tries again. The caller holds
// the lock on the id.
func (a *Agent) release(ctx context.Context, l local) error {
	l.Releasing = true
	a.table.put(l)
	if l.Attached {
		if err := a.detach(ctx, l); err != nil {
			return err
		}
	} else if err := a.leave(ctx, l.Network, l.ID); err != nil { // it may have joined and never been attached
		return err
	}
	r, err := a.findNetwork(ctx, l.Network)
	switch {
	case err == nil:
		if err := a.Addresses.Release(ctx, pool(r), a.owner(l.ID)); err != nil {
			return err
		}
	case api.CodeOf(translate(err)) == api.CodeNotFound:
		// The network went, and its addresses with it.
	default:
		return err
	}
	a.table.remove(l.ID)
	return a.publish(ctx, l.Network)
}
