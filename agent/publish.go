package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/agent/state"
)

// publisher writes this host's list of endpoints on one network. Only its
// coalescer's run touches the fields, one run at a time.
type publisher struct {
	runs    *coalescer
	known   bool   // version and value are what the store has
	version uint64 // 0: the key is absent
	value   []byte
}

// publishTries bounds how often a publish begins anew after the key was
// changed by another. Nobody else should write it at all.
const publishTries = 4

// publish makes this host's list on a network in the store what the table says.
func (a *Agent) publish(ctx context.Context, networkID string) error {
	a.pubMu.Lock()
	p := a.publishers[networkID]
	if p == nil {
		p = &publisher{}
		p.runs = newCoalescer(applyTimeout, func(ctx context.Context) error { return a.write(ctx, networkID, p) })
		a.publishers[networkID] = p
	}
	a.pubMu.Unlock()
	return p.runs.Do(ctx)
}

func (a *Agent) write(ctx context.Context, networkID string, p *publisher) error {
	var err error
	for range publishTries {
		if err = a.writeOnce(ctx, networkID, p); err == nil {
			return nil
		}
		p.known = false
		if !errors.Is(err, state.ErrConflict) {
			break
		}
		if p.version == 0 {
			// The network's record is not as the view has it: look at it, so
			// that the next try knows, or the caller hears that it is gone.
			r, nerr := a.Catalog.Get(ctx, networkID)
			if nerr != nil {
				return nerr
			}
			a.view.putNetwork(r)
		}
	}
	return fmt.Errorf("publish the endpoints on network %q: %w", networkID, err)
}

func (a *Agent) writeOnce(ctx context.Context, networkID string, p *publisher) error {
	key := network.EndpointsKey(networkID, a.self.ID)
	if !p.known {
		e, err := a.Store.Get(ctx, key)
		if err != nil && !errors.Is(err, state.ErrNotFound) {
			return err
		}
		p.known, p.version, p.value = true, e.Version, e.Value
	}
	var list []endpoint
	for _, l := range a.table.on(networkID) {
		if !l.Releasing {
			list = append(list, l.endpoint)
		}
	}
	if len(list) == 0 {
		return a.unpublish(ctx, key, p)
	}
	value, err := encodeEndpoints(list)
	if err != nil {
		return err
	}
	if p.version != 0 && bytes.Equal(value, p.value) {
		return nil
	}
	if p.version == 0 {
		return a.publishFirst(ctx, networkID, key, value, p)
	}
	p.version, err = a.Store.CompareAndSet(ctx, key, value, p.version)
	p.value = value
	return err
}

// publishFirst makes the list, provided the network is there and is not being
// deleted: from then on it cannot be.
func (a *Agent) publishFirst(ctx context.Context, networkID, key string, value []byte, p *publisher) error {
	r, ok := a.view.network(networkID)
	if !ok {
		return api.Errorf(api.CodeNotFound, "network %q was deleted meanwhile", networkID)
	}
	for _, l := range a.table.on(networkID) {
		if !l.Releasing && !r.Subnet.Contains(l.IP) {
			// The network went and came again, with another subnet, since the
			// address was taken.
			return api.Errorf(api.CodeNotFound, "network %q was deleted meanwhile, and made anew with subnet %s; try again", networkID, r.Subnet)
		}
	}
	p.known = false // a transaction does not tell the new version
	return a.Store.Txn(ctx, []state.Op{
		{Kind: state.OpCheck, Key: network.NetworksPrefix + networkID, Version: r.Version},
		{Kind: state.OpCAS, Key: key, Value: value},
	})
}

// unpublish removes an empty list, so that the network can be deleted.
func (a *Agent) unpublish(ctx context.Context, key string, p *publisher) error {
	if p.version == 0 {
		return nil
	}
	err := a.Store.Delete(ctx, key, p.version)
	p.version, p.value = 0, nil
	return err
}
