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

// publisher writes this host's list of endpoints on one network. Only its
// coalescer's run touches what is known, one run at a time.
type publisher struct {
	runs    *coalescer
	recheck atomic.Bool // what is known may not be true any more
	known   bool        // version and value are what the store has
	version uint64      // 0: the key is absent
	value   []byte
	unknown stored.Unknown // what a later release has written beside our endpoints
	own     cluster.Own
	there   bool // the list was in the store, and we have not taken it out
}

// publishTries bounds how often a publish begins anew after the key, or the
// record of its network, was changed by another.
const publishTries = 4

// publish makes this host's list on a network in the store what the table says.
func (a *Agent) publish(ctx context.Context, networkID string) error {
	return late(fmt.Sprintf("publish the endpoints on network %q", networkID), a.publisher(networkID).runs.Do(ctx))
}

// publisher gives the writer of our list on a network.
func (a *Agent) publisher(networkID string) *publisher {
	a.pubMu.Lock()
	defer a.pubMu.Unlock()
	p := a.publishers[networkID]
	if p == nil {
		p = &publisher{}
		p.runs = newCoalescer(a.errands, applyTimeout, func(ctx context.Context) error { return a.write(ctx, networkID, p) })
		a.publishers[networkID] = p
	}
	return p
}

// write tries until nobody was in between. Whatever fails makes the next try
// read first. Before the store has told what this host had there is nothing to
// write: the table has the attached endpoints only, and those that hold an address
// would be gone for good.
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

// writeOnce writes the list if the store has another. lost says that the last
// try met a change by somebody else.
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
		if e.Version != 0 && !foreign {
			was, err := decodeOwn(e)
			if err != nil { // it is left alone, as all such values are
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
		return a.unpublish(ctx, key, p)
	}
	value, err := encodeEndpoints(list, p.unknown)
	if err != nil {
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

// mayBeReaped says whether a list of ours that is gone may have been taken out
// rightly, since this host was away for long.
func (a *Agent) mayBeReaped(list state.Entry) bool {
	return list.Version == 0 && (a.reclaim.Load() || a.Membership != nil && !a.view.alive(a.id))
}

// publishFirst makes the list, provided the network is there and is not being
// deleted: from then on it cannot be.
func (a *Agent) publishFirst(ctx context.Context, networkID string, locals []local, put state.Op, p *publisher, lost bool) error {
	r, ok := a.view.network(networkID)
	if !ok || lost {
		// The view may be behind: the caller hears that the network is gone
		// only when it is.
		var err error
		if r, err = a.Catalog.Get(ctx, networkID); err != nil {
			return err
		}
		a.view.putNetwork(r)
	}
	if used, ok := a.segments.force(networkID); ok && p.there {
		r.Subnet, r.Gateway = used.Subnet, used.Gateway // the list was taken out, and the record may have been changed
	}
	for _, l := range locals {
		if !r.Subnet.Contains(l.IP) {
			// The network went and came again, with another subnet, since the
			// address was taken.
			return api.Errorf(api.CodeNotFound, "network %q was deleted meanwhile, and made anew with subnet %s; try again", networkID, r.Subnet)
		}
		if l.version == r.Version && !p.there {
			continue
		}
		// It may have gone and come again with the same subnet, or this host was
		// taken for dead: then the address went with it, and another may have it.
		if err := a.Addresses.AllocateAddr(ctx, pool(r), l.IP, a.owner(l.ID)); err != nil {
			if errors.Is(err, ipam.ErrTaken) {
				a.reclaim.Store(true)
				signal(a.kick)
			}
			return a.explainAddress(err, r)
		}
	}
	p.known = false // a transaction does not tell the new version
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
