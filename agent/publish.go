package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/cluster"
	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/agent/stored"
	"github.com/socketplane/socketplane/ipam"
)

// publisher writes this host's list of endpoints on one network. Only the coalescer's run
// accesses the cached state, and only one run is active at a time.
type publisher struct {
	runs    *coalescer
	recheck atomic.Bool // the cached state may be outdated
	known   bool        // version and value are those in the store
	version uint64      // 0: the key is absent
	value   []byte
	unknown stored.Unknown // fields that a later release wrote next to this host's endpoints
	own     cluster.Own
	there   bool // the list was in the store, and this host has not removed it
	users   int  // number of callers; guarded by Agent.pubMu
}

// publishTries bounds the attempts of one publish if another writer changes the key or
// the network's record.
const publishTries = 4

// publish writes this host's list of endpoints on a network from the table to the store.
func (a *Agent) publish(ctx context.Context, networkID string) error {
	p, done := a.publisher(networkID)
	defer done()
	return late(fmt.Sprintf("publish the endpoints on network %q", networkID), p.runs.Do(ctx))
}

// write tries again after each conflict with another writer. After any failure, the next
// attempt reads the key first. write fails until the stored state is loaded: the table
// only has the attached endpoints by then, and those that just hold an address would be
// lost.
func (a *Agent) write(ctx context.Context, networkID string, p *publisher) error {
	if !a.isLoaded() {
		return fmt.Errorf("publish the endpoints on network %q before those of before are known: %w", networkID, state.ErrUnavailable)
	}
	if p.recheck.Swap(false) {
		p.known = false
	}
	var err error
	for try := range publishTries {
		if err = a.writeOnce(ctx, networkID, p, try > 0); err == nil {
			return nil
		}
		p.known = false
		if !errors.Is(err, state.ErrConflict) {
			break
		}
	}
	if _, said := errors.AsType[*api.Error](err); said || errors.Is(err, network.ErrNotFound) {
		return err
	}
	return fmt.Errorf("publish the endpoints on network %q: %w", networkID, err)
}

// writeOnce writes the list if the store has a different one. lost reports that the last
// attempt failed because of another writer.
func (a *Agent) writeOnce(ctx context.Context, networkID string, p *publisher, lost bool) error {
	key := network.EndpointsKey(networkID, a.id)
	if !p.known {
		e, err := a.Store.Get(ctx, key)
		if err != nil && !errors.Is(err, state.ErrNotFound) {
			return err
		}
		if a.mayBeReaped(e) {
			p.own.Reset()
		}
		foreign := !p.own.Is(e.Value)
		if p.own.Foreign(e.Value, e.Version, a.view.now()) {
			a.Logger.Error("somebody else wrote this host's list of endpoints; it is put right", "key", key, "version", e.Version)
		}
		if e.Version != 0 && p.own.FromBefore() {
			was, err := a.readOwn(e)
			if err != nil { // leave the value alone, like all unreadable values
				return &api.Error{Code: api.CodeUnavailable, Message: oneLine(err.Error()), Cause: err}
			}
			p.unknown = was.Unknown
		}
		p.known, p.version, p.value = true, e.Version, e.Value
		if !foreign {
			p.own.Wrote(e.Value)
		}
		p.there = p.there || e.Version != 0
	}
	var locals []local
	var list []endpoint
	for _, l := range a.table.on(networkID) {
		if !l.Releasing && !l.Evicted {
			locals, list = append(locals, l), append(list, l.endpoint)
		}
	}
	if len(list) == 0 {
		a.clearNotes(noteFull + networkID + "/")
		return a.unpublish(ctx, key, p)
	}
	value, err := encodeEndpoints(list, p.unknown)
	if err != nil {
		return err
	}
	if err := a.checkSize(networkID, list, len(value)); err != nil {
		return err
	}
	switch {
	case p.version == 0:
		return a.publishFirst(ctx, networkID, locals, state.Op{Kind: state.OpCAS, Key: key, Value: value}, p, lost)
	case bytes.Equal(value, p.value):
		return nil
	}
	p.own.Try(value)
	version, err := a.Store.CompareAndSet(ctx, key, value, p.version)
	if err != nil {
		return err
	}
	p.own.Wrote(value)
	p.version, p.value = version, value
	return nil
}

// mayBeReaped reports whether a missing list of this host may have been removed
// legitimately, because this host was away for a long time.
func (a *Agent) mayBeReaped(list state.Entry) bool {
	return list.Version == 0 && (a.reclaim.Load() || a.Membership != nil && !a.view.alive(a.id))
}

// publishFirst creates the list if the network exists and is not being deleted. From then
// on the network cannot be deleted.
func (a *Agent) publishFirst(ctx context.Context, networkID string, locals []local, put state.Op, p *publisher, lost bool) error {
	r, ok := a.view.network(networkID)
	if !ok || lost {
		// The view may be outdated. The caller must get an error only if the network is
		// really gone.
		var err error
		if r, err = a.Catalog.Get(ctx, networkID); err != nil {
			return err
		}
		a.view.putNetwork(r)
	}
	if used, ok := a.segments.force(networkID); ok && p.there {
		r.Subnet, r.Gateway = used.Subnet, used.Gateway // the list was removed, and the record may have changed
	}
	for _, l := range locals {
		if !r.Subnet.Contains(l.IP) {
			// The network was deleted and created again with another subnet after the
			// address was allocated.
			return api.Errorf(api.CodeNotFound, "network %q was deleted meanwhile, and made anew with subnet %s; try again", networkID, r.Subnet)
		}
		if l.version == r.Version && !p.there {
			continue
		}
		// The network may have been created again with the same subnet, or other hosts
		// considered this one dead. In both cases the address was released, and another
		// endpoint may have it.
		if err := a.Addresses.AllocateAddr(ctx, pool(r), l.IP, a.owner(l.ID)); err != nil {
			if errors.Is(err, ipam.ErrTaken) {
				a.reclaim.Store(true)
				signal(a.kick)
			}
			return a.explainAddress(err, r)
		}
	}
	p.known = false // a transaction does not return the new version
	p.own.Try(put.Value)
	err := a.Store.Txn(ctx, []state.Op{{Kind: state.OpCheck, Key: network.Key(networkID), Version: r.Version}, put})
	if err == nil {
		p.own.Wrote(put.Value)
	}
	return err
}

// unpublish removes an empty list, so that the network can be deleted.
func (a *Agent) unpublish(ctx context.Context, key string, p *publisher) error {
	if p.version == 0 {
		p.own.Wrote(nil)
		return nil
	}
	p.own.Try(nil)
	if err := a.Store.Delete(ctx, key, p.version); err != nil {
		return err
	}
	p.own.Wrote(nil)
	p.version, p.value, p.there, p.unknown = 0, nil, false, ""
	return nil
}
