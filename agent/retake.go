package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/link"
	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/ipam"
)

// admitPatience is how long one pass of converge waits for this host to be
// registered: usually it is within milliseconds of the agent's start.
const admitPatience = 2 * time.Second

// admitted says whether the endpoints in the store under this host's id are its
// own to judge. Before it holds its record, somebody may be taking them away as
// a dead host's, and on the copy of a disk they are another machine's.
func (a *Agent) admitted(ctx context.Context) error {
	if a.Membership == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, admitPatience)
	defer cancel()
	return a.Membership.Admitted(ctx)
}

// watchReturn has our addresses looked at each time this host was away from the
// cluster: it may have been taken for dead.
func (a *Agent) watchReturn(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.Membership.Returned():
			a.reclaim.Store(true)
			signal(a.kick)
		}
	}
}

// retakeAll takes back, or gives up, the addresses of the endpoints that are
// here, and has the lists of them read before they are written.
func (a *Agent) retakeAll(ctx context.Context) error {
	for _, p := range a.ownLists() {
		p.own.Reset() // it may have been taken out as a dead host's
	}
	onNetwork := byNetwork(a.table.all())
	list, err := a.lister(ctx, len(onNetwork))
	if err != nil {
		a.reclaim.Store(true)
		return err
	}
	var errs []error
	for id, locals := range onNetwork {
		if err := a.retakeOn(ctx, id, locals, list); err != nil {
			a.reclaim.Store(true)
			errs = append(errs, fmt.Errorf("addresses of network %q: %w", id, err))
		}
	}
	a.pubMu.Lock()
	defer a.pubMu.Unlock()
	for _, p := range a.publishers {
		p.recheck.Store(true)
	}
	return errors.Join(errs...)
}

// fewNetworks is up to how many networks are read one by one: all the addresses of a
// large cluster are more than those of a few networks.
const fewNetworks = 16

// lister gives what lists the addresses of some networks of this host.
func (a *Agent) lister(ctx context.Context, networks int) (func(netip.Prefix) ([]ipam.Allocation, error), error) {
	if networks <= fewNetworks {
		return func(subnet netip.Prefix) ([]ipam.Allocation, error) { return a.Addresses.List(ctx, subnet) }, nil
	}
	all, err := a.Addresses.ListAll(ctx)
	if err != nil {
		return nil, err
	}
	return all.Of, nil
}

func (a *Agent) retakeOn(ctx context.Context, networkID string, locals []local, list func(netip.Prefix) ([]ipam.Allocation, error)) error {
	r, err := a.recordOf(ctx, networkID)
	if errors.Is(err, network.ErrNotFound) {
		return nil // convergeGateways reports it
	}
	if err != nil {
		return err
	}
	allocations, err := list(r.Subnet)
	if err != nil && !errors.Is(err, ipam.ErrBadBlock) { // the others' addresses come with it
		return err
	}
	owners := map[netip.Addr]string{}
	for _, al := range allocations {
		owners[al.Addr] = al.Owner
	}
	for _, l := range locals {
		if owners[l.IP] == a.owner(l.ID) {
			continue
		}
		if err := a.retake(ctx, r, l.ID); err != nil {
			return err
		}
	}
	return nil
}

// retake makes the address of an endpoint its own in the store, if it can. One
// whose address is another's is taken off the network: no two may use it.
func (a *Agent) retake(ctx context.Context, r network.Record, id string) error {
	free := false
	err := a.locked(ctx, link.HostName(id), func(ctx context.Context) error {
		free = true
		l, ok := a.table.get(id)
		if !ok || l.Releasing {
			return nil
		}
		err := a.Addresses.AllocateAddr(ctx, pool(r), l.IP, a.owner(id))
		switch {
		case err == nil:
			if l.Evicted {
				l.Evicted = false
				a.table.put(l)
			}
			a.clearNotes(noteAddress + id)
			return nil
		case away(err) || ctx.Err() != nil:
			return err
		case errors.Is(err, ipam.ErrTaken):
			return a.evict(ctx, l)
		}
		a.note(noteAddress+id, fmt.Sprintf("the address of %q is not its own; remove the container and create it anew (%v)",
			id, a.explainAddress(err, r)))
		return nil
	})
	if err == nil && !free {
		a.reclaim.Store(true) // somebody else is changing it; the next pass looks again
	}
	return err
}

// evict takes an endpoint off the network whose address was given to another
// while this host was gone. The caller holds the lock on the endpoint.
func (a *Agent) evict(ctx context.Context, l local) error {
	l.Evicted = true
	a.table.put(l)
	a.note(noteAddress+l.ID, evictedError(l).Error())
	if !l.Attached {
		return nil
	}
	a.Logger.Warn("detaching an endpoint whose address is another's", "endpoint", l.ID, "container", l.ContainerName, "network", l.Network, "ip", l.IP)
	gone, _ := a.withdraw(ctx, l) // converge publishes what is left
	return gone
}

func evictedError(l local) error {
	name := l.ContainerName
	if name == "" {
		name = l.ID
	}
	return api.Errorf(api.CodeConflict,
		"the address %s of %q was given to another while this host was gone, and it is off the network; remove it and create it anew", l.IP, name)
}
