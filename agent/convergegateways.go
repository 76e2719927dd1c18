package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/socketplane/socketplane/ovs"
)

// convergeGateways ensures that every network in use on this host has a correct gateway,
// and removes all other gateways.
func (a *Agent) convergeGateways(ctx context.Context, ports []ovs.Port) error {
	errs := a.convergeUsers(ctx)
	for _, p := range ports {
		if id := p.IDs[idNetwork]; p.Kind == ovs.KindGateway && !a.segments.used(id) {
			errs = append(errs, a.mendGateway(ctx, id))
		}
	}
	for _, seg := range a.segments.list() {
		errs = append(errs, a.mendGateway(ctx, seg.record.ID))
	}
	a.noteMetadata()
	return errors.Join(append(errs, a.nat.Do(ctx))...)
}

// convergeUsers registers every attached endpoint as a user of its network. It removes
// users that are neither attached nor about to be: a failed attach may not have undone
// everything, and a created container may never start.
func (a *Agent) convergeUsers(ctx context.Context) []error {
	var errs []error
	var noted []string
	attached := map[string][]string{}
	for _, l := range a.table.all() {
		if l.Attached {
			attached[l.Network] = append(attached[l.Network], l.ID)
		}
	}
	for networkID, ids := range attached {
		r, ok := a.view.record(networkID)
		if !ok { // the watch shows every network that exists
			noted = append(noted, noteNetwork+networkID)
			remedy := "disconnect them"
			if r, ok = a.segments.record(networkID); ok {
				remedy = fmt.Sprintf("make it again with: socketplane network create %s %s", networkID, r.Subnet)
			}
			a.note(noteNetwork+networkID, fmt.Sprintf("network %q is not in the store, and %d endpoints of this host are on it; %s", networkID, len(ids), remedy))
		}
		if !ok {
			continue
		}
		if _, err := a.inForce(r); err != nil {
			continue // the network is not programmed here; judge has noted why
		}
		for _, id := range ids {
			if l, ok := a.table.get(id); ok && l.Attached && l.Network == networkID {
				a.segments.enter(r, id)
			}
		}
	}
	a.clearNotes(noteNetwork, noted...)
	for networkID, users := range a.segments.users() {
		for _, id := range users {
			if strings.HasPrefix(id, keeperPrefix) {
				if _, ok := a.view.record(networkID); !ok { // nobody can take over on a network that is gone
					errs = append(errs, a.leaveNow(ctx, networkID, id))
				}
				continue
			}
			if l, ok := a.table.get(id); !ok || !a.uses(l, networkID) {
				errs = append(errs, a.lockedID(ctx, id, func(ctx context.Context, id string) error {
					return a.dropUser(ctx, networkID, id)
				}))
			}
		}
	}
	return errs
}

// uses reports whether an endpoint is on a network here, or will be shortly.
func (a *Agent) uses(l local, networkID string) bool {
	waits := !l.Releasing && !l.Dirty && !l.Evicted && time.Since(l.since) < a.standby
	return l.Network == networkID && (l.Attached || waits)
}

// dropUser removes an endpoint from the users of a network that it does not use.
func (a *Agent) dropUser(ctx context.Context, networkID, id string) error {
	if l, ok := a.table.get(id); ok && a.uses(l, networkID) {
		return nil
	}
	return a.leaveNow(ctx, networkID, id)
}

// mendGateway makes a network's gateway what it should be, or removes it. If the
// network's lock is held, mendGateway skips it, because the holder may be waiting for the
// store. A later pass repeats it.
func (a *Agent) mendGateway(ctx context.Context, networkID string) error {
	unlock, ok := a.segments.locks.TryLock(networkID)
	if !ok {
		a.skipped.Add(1)
		return nil
	}
	defer unlock()
	r, ok := a.segments.record(networkID)
	if !ok {
		return a.dropGateway(ctx, networkID)
	}
	a.routes.expect(networkID)
	ofport, err := a.ensureGateway(ctx, r)
	if err != nil {
		return err
	}
	if a.segments.port(networkID) == 0 { // nobody may consider the gateway ready before it is
		if err := a.nat.Do(ctx); err != nil {
			return err
		}
	}
	a.segments.setPort(networkID, ofport)
	return nil
}
