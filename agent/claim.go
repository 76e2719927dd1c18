package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/socketplane/socketplane/agent/link"
	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/ipam"
)

// claim makes the addresses of this host's endpoints and the owners in the
// store agree: what was left half done by a crash is given back, and an
// endpoint whose address the store has lost gets it again. The addresses of all
// networks are read in one call. A pass that fails goes on from where the one
// before it came.
func (a *Agent) claim(ctx context.Context) error {
	entries, err := a.Store.List(ctx, network.NetworksPrefix)
	if err != nil {
		return fmt.Errorf("read the networks: %w", err)
	}
	var records []network.Record
	for _, e := range entries {
		r, err := network.Decode(e)
		if err != nil || a.isBlocked(r.ID) {
			continue // the view reports it
		}
		if a.claimed[r.ID] != r.Version {
			records = append(records, r)
		}
	}
	if len(records) == 0 {
		return nil
	}
	all, err := a.Addresses.ListAll(ctx)
	if err != nil {
		return err
	}
	locals := byNetwork(a.table.all())
	for _, r := range records {
		a.view.putNetwork(r)
		used := r
		if forced, ok := a.segments.force(r.ID); ok {
			used = forced // its endpoints have addresses of the subnet that it is programmed with
		}
		if err := a.claimOn(ctx, used, all, locals[r.ID]); err != nil {
			return fmt.Errorf("addresses of network %q: %w", r.ID, err)
		}
		a.claimed[r.ID] = r.Version
	}
	return nil
}

func (a *Agent) claimOn(ctx context.Context, r network.Record, all *ipam.Listing, locals []local) error {
	allocations, err := all.Of(r.Subnet)
	if errors.Is(err, ipam.ErrBadBlock) { // the others' addresses come with it
		a.note(noteBlocks+r.ID, fmt.Sprintf("network %q: %v; it is left alone", r.ID, err))
	} else if err != nil {
		return err
	}
	held, dropped := map[string]netip.Addr{}, map[string]bool{} // by endpoint
	for _, al := range allocations {
		host, id, _ := strings.Cut(al.Owner, "/")
		if host != a.id || dropped[id] {
			continue
		}
		if a.has(id, r, al.Addr) {
			held[id] = al.Addr
			continue
		}
		if err := a.locked(ctx, link.HostName(id), func(ctx context.Context) error { return a.drop(ctx, r, al, id) }); err != nil {
			return err
		}
		dropped[id] = true
	}
	for _, l := range locals {
		if held[l.ID] == l.IP && !dropped[l.ID] {
			continue
		}
		if err := a.retake(ctx, r, l.ID); err != nil {
			return err
		}
	}
	return nil
}

// has says whether an endpoint of this host is on a network with an address.
func (a *Agent) has(id string, r network.Record, addr netip.Addr) bool {
	l, ok := a.table.get(id)
	return ok && l.Network == r.ID && l.IP == addr
}

// drop gives back an address that no endpoint has. The caller holds the lock on
// the endpoint.
func (a *Agent) drop(ctx context.Context, r network.Record, al ipam.Allocation, id string) error {
	if a.has(id, r, al.Addr) {
		return nil
	}
	err := a.Addresses.Release(ctx, pool(r), al.Owner)
	if err == nil {
		a.Logger.Info("an address without an endpoint was given back", "network", r.ID, "ip", al.Addr, "endpoint", id)
	} else if !away(err) { // it stays taken, and that is all
		a.Logger.Error("an address without an endpoint could not be given back", "network", r.ID, "ip", al.Addr, "endpoint", id, "err", err)
		return nil
	}
	return err
}

// byNetwork sorts endpoints by their network, each list in the order given.
func byNetwork(locals []local) map[string][]local {
	lists := map[string][]local{}
	for _, l := range locals {
		lists[l.Network] = append(lists[l.Network], l)
	}
	return lists
}
