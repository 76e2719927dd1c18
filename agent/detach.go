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

// Detach implements api.Service. It returns while the detach is still in progress,
// because the end of a container waits for the call. The next call for the same id waits
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

// markDetached records that the endpoint only holds its address.
func (a *Agent) markDetached(l local) local {
	l.Port, l.OFPort, l.Attached, l.NetNS, l.Dirty, l.HostPorts, l.Turn = "", 0, false, "", true, nil, 0
	a.table.put(l)
	a.HostPorts.Release(l.ID) // at once: the next container to start may publish the same ports
	return l
}

// detach removes the interface and keeps the address. It does as much as it can, and the
// converge loop completes the rest. If only the store is away, detach succeeds: the
// container is gone here, even if the other hosts learn of it later. The caller holds the
// endpoint's lock.
func (a *Agent) detach(ctx context.Context, l local) error {
	gone, told := a.withdraw(ctx, l)
	if away(told) {
		told = nil
	}
	return errors.Join(gone, told)
}

// withdraw removes the interface and, in parallel, tells the cluster.
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

// disconnect removes the endpoint's interface, port and flows. Parts may be missing
// already. With the last endpoint of a network, its gateway goes too.
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

// Release implements api.Service. Like Attach, it waits for an agent that has just
// started, because the caller does not call again.
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

// release detaches the endpoint and releases its address. If the store is away, the
// endpoint stays marked as Releasing and the converge loop tries again. The caller holds
// the endpoint's lock.
func (a *Agent) release(ctx context.Context, l local) error {
	l.Releasing = true
	a.table.put(l)
	if l.Attached || l.Dirty {
		// The address may be reassigned only after nothing here uses it.
		if gone, _ := a.withdraw(ctx, l); gone != nil {
			return gone
		}
	} else if a.segments.counted(l.Network, l.ID) { // it joined the network but was never attached
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

// giveBack removes an endpoint that is marked as Releasing and has no interface. It
// releases the address last: nobody else may get it while other hosts still believe that
// it is this host's.
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
		case errors.Is(err, network.ErrNotFound): // its addresses were deleted with the network
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

// doubtTime is how long a write with a lost answer may still take effect after the store
// has answered another call. By then the server has processed what waited in its buffers.
const doubtTime = 2 * time.Second

// lookAgain keeps an endpoint whose address may have been taken by a delayed write, so
// that the converge loop releases it once more.
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
