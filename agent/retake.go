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

// admitPatience bounds how long one pass of converge waits for the registration of this
// host. Usually that completes within milliseconds of the agent's start.
const admitPatience = 2 * time.Second

// admitted returns nil once this host holds its record. Before that, the endpoints under
// its id in the store may not be its own to judge: another host may be removing them as
// those of a dead host, or this machine runs on a copy of another machine's disk.
func (a *Agent) admitted(ctx context.Context) error {
	if a.Membership == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, admitPatience)
	defer cancel()
	return a.Membership.Admitted(ctx)
}

// watchReturn requests a check of this host's addresses each time the host returns to the
// cluster, because the others may have considered it dead.
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

// retakeAll reclaims the addresses of this host's endpoints, and evicts the endpoints
// whose address another owner has. It also makes every publisher read its list before the
// next write.
func (a *Agent) retakeAll(ctx context.Context) error {
	for _, p := range a.ownLists() {
		p.own.Reset() // another host may have removed it as that of a dead host
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

// fewNetworks is the largest number of networks that are read one by one. In a large
// cluster, a list of all addresses is longer than the lists of a few networks.
const fewNetworks = 16

// lister returns a function that lists the addresses of a subnet.
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
	if err != nil && !errors.Is(err, ipam.ErrBadBlock) { // the readable addresses are returned with this error
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

// retake makes an endpoint the owner of its address in the store. If another owner has
// the address, retake evicts the endpoint, because no two endpoints may use it.
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
		a.reclaim.Store(true) // the endpoint's lock is held; the next pass tries again
	}
	return err
}

// evict detaches an endpoint whose address was given to another while this host was away.
// The caller holds the endpoint's lock.
func (a *Agent) evict(ctx context.Context, l local) error {
	l.Evicted = true
	a.table.put(l)
	a.note(noteAddress+l.ID, evictedError(l).Error())
	if !l.Attached {
		return nil
	}
	a.Logger.Warn("detaching an endpoint whose address is another's", "endpoint", l.ID, "container", l.ContainerName, "network", l.Network, "ip", l.IP)
	gone, _ := a.withdraw(ctx, l) // converge completes the publishing
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
