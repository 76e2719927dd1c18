package agent

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/network"
)

// Detach implements api.Service. It returns when the detach is under way: a
// container's end waits for it, and whatever comes next for the same id waits
// for the lock.
func (a *Agent) Detach(ctx context.Context, id string) error {
	if err := api.CheckEndpointID(id); err != nil {
		return err
	}
	unlock, err := a.lockID(ctx, id)
	if err != nil {
		return err
	}
	l, ok := a.table.get(id)
	if !ok || !l.Attached {
		unlock()
		return nil
	}
	l = a.markDetached(l)
	a.errands.run(convergeTimeout, func(ctx context.Context) {
		defer unlock()
		if err := a.detach(ctx, l); err != nil {
			a.Logger.Warn("detach is not complete; trying on", "endpoint", id, "container", l.ContainerName, "err", err)
			return
		}
		a.Logger.Info("detached", "endpoint", id, "container", l.ContainerName, "network", l.Network)
	})
	return nil
}

// markDetached makes the endpoint one that only holds its address.
func (a *Agent) markDetached(l local) local {
	l.Port, l.OFPort, l.Attached, l.NetNS, l.Dirty, l.HostPorts, l.Turn = "", 0, false, "", true, nil, 0
	a.table.put(l)
	a.HostPorts.Release(l.ID) // at once: who starts next may publish the same
	return l
}

// detach takes the interface away and keeps the address. It goes as far as it
// can: what fails is finished by the converge loop. While the store is away
// that is success: the container is gone here, whether or not others can be
// told now. The caller holds the lock on the endpoint.
func (a *Agent) detach(ctx context.Context, l local) error {
	gone, told := a.withdraw(ctx, l)
	if away(told) {
		told = nil
	}
	return errors.Join(gone, told)
}

// withdraw takes the interface away and tells the cluster, side by side.
func (a *Agent) withdraw(ctx context.Context, l local) (gone, told error) {
	l = a.markDetached(l)
	var wg sync.WaitGroup
	wg.Go(func() { told = a.publish(ctx, l.Network) })
	gone = a.disconnect(ctx, l)
	wg.Wait()
	if gone == nil {
		l.Dirty = false
		a.table.put(l)
	}
	if gone != nil || told != nil {
		signal(a.kick)
	}
	return gone, told
}

// disconnect takes the endpoint's interface, port and flows away, all or part
// of which are there. The network's last endpoint takes its gateway with it.
func (a *Agent) disconnect(ctx context.Context, l local) error {
	var g errgroup.Group
	g.Go(func() error { return a.unplug(ctx, l.ID) })
	var left error
	if l.Source == api.SourceDocker || l.Source == api.SourceDriver {
		a.leaveSoon(l.Network, l.ID)
	} else {
		left = a.leave(ctx, l.Network, l.ID)
	}
	flows := a.forwarding.Do(ctx)
	closed := a.closePorts(ctx, l)
	a.takeOver(l)
	return errors.Join(g.Wait(), left, flows, closed)
}

// Release implements api.Service. Like Attach it waits for an agent that has
// just started: who ends a container does not come twice.
func (a *Agent) Release(ctx context.Context, id string) error {
	if err := api.CheckEndpointID(id); err != nil {
		return err
	}
	if err := a.awaitLoaded(ctx); err != nil {
		return err
	}
	unlock, err := a.lockID(ctx, id)
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
// the lock on the endpoint.
func (a *Agent) release(ctx context.Context, l local) error {
	l.Releasing = true
	a.table.put(l)
	if l.Attached || l.Dirty {
		// Nobody is given the address before nothing here uses it any more.
		if gone, _ := a.withdraw(ctx, l); gone != nil {
			return gone
		}
	} else if a.segments.counted(l.Network, l.ID) { // it has joined, and was never attached
		if err := errors.Join(a.leave(ctx, l.Network, l.ID), a.forwarding.Do(ctx)); err != nil {
			return err
		}
	}
	if err := a.giveBack(ctx, l); err != nil {
		signal(a.kick)
		return err
	}
	return nil
}

// giveBack ends an endpoint that is marked as Releasing and has no interface.
// The address goes last: nobody may be given it while others still hear that it
// is ours.
func (a *Agent) giveBack(ctx context.Context, l local) error {
	err := a.publish(ctx, l.Network)
	if err != nil && api.CodeOf(translate(err)) != api.CodeNotFound {
		return err
	}
	from := l.pool
	if !from.Subnet.IsValid() {
		r, err := a.recordOf(ctx, l.Network)
		switch {
		case err == nil:
			from = pool(r)
		case errors.Is(err, network.ErrNotFound): // the network went, and its addresses with it
		default:
			return err
		}
	}
	if from.Subnet.IsValid() {
		if err := a.Addresses.Release(ctx, from, a.owner(l.ID)); err != nil {
			return err
		}
	}
	if l.Doubt && a.doubt > 0 && (l.again.IsZero() || time.Now().Before(l.again)) {
		return a.lookAgain(l)
	}
	a.table.remove(l.ID)
	a.clearNotes(noteAddress + l.ID)
	return nil
}

// doubtTime is how long a write whose answer was lost may still be under way
// after the store has answered another call: what waited with it in the
// server's buffers is done by then.
const doubtTime = 2 * time.Second

// lookAgain keeps an endpoint whose address may have been taken after all, so
// that the converge loop gives it back once more.
func (a *Agent) lookAgain(l local) error {
	if l.again.IsZero() {
		l.again = time.Now().Add(a.doubt)
		a.table.put(l)
		a.errands.run(a.doubt+undoTimeout, func(ctx context.Context) {
			sleep(ctx, a.doubt)
			signal(a.kick)
		})
	}
	return nil
}
