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

// claim reconciles the addresses of this host's endpoints with their owners in the store.
// It releases addresses that a crash left behind, and reclaims an address that the store
// has lost. It reads the addresses of all networks in one call. After a failure, the next
// call continues where this one stopped.
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
			used = forced // this host programs another subnet, and its endpoints have addresses of that one
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
	if errors.Is(err, ipam.ErrBadBlock) { // the readable addresses are returned with this error
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

// has reports whether this host's endpoint id is on network r with address addr.
func (a *Agent) has(id string, r network.Record, addr netip.Addr) bool {
	l, ok := a.table.get(id)
	return ok && l.Network == r.ID && l.IP == addr
}

// drop releases an address that no endpoint has. The caller holds the endpoint's lock.
func (a *Agent) drop(ctx context.Context, r network.Record, al ipam.Allocation, id string) error {
	if a.has(id, r, al.Addr) {
		return nil
	}
	err := a.Addresses.Release(ctx, pool(r), al.Owner)
	if err == nil {
		a.Logger.Info("an address without an endpoint was given back", "network", r.ID, "ip", al.Addr, "endpoint", id)
	} else if !away(err) { // the address stays allocated, which is harmless
		a.Logger.Error("an address without an endpoint could not be given back", "network", r.ID, "ip", al.Addr, "endpoint", id, "err", err)
		return nil
	}
	return err
}

// byNetwork groups endpoints by network and keeps their order.
func byNetwork(locals []local) map[string][]local {
	lists := map[string][]local{}
	for _, l := range locals {
		lists[l.Network] = append(lists[l.Network], l)
	}
	return lists
}
