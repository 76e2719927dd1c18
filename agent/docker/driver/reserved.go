package driver

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/socketplane/socketplane/agent/api"
)

// reserveTime is how long a subnet is kept for a network that Docker is making: more
// than Docker needs to make it, and then to tell its name (pendingTime).
const reserveTime = 2 * pendingTime

// reserved are the subnets that the cluster keeps for the networks that Docker is
// making here. Docker asks for a subnet first, and tells the network's name last.
type reserved struct {
	calls chan struct{} // holds a token while the cluster is asked: what it has and what is known here must agree

	mu      sync.Mutex
	until   map[netip.Prefix]time.Time
	freed   map[netip.Prefix]int // how often Docker will yet give back the subnet of a network that it deletes
	changed bool                 // the cluster may keep more than is known here
}

func newReserved() *reserved {
	return &reserved{
		calls: make(chan struct{}, 1), until: map[netip.Prefix]time.Time{}, freed: map[netip.Prefix]int{},
		changed: true, // by an earlier life
	}
}

// lock waits until nobody else asks the cluster.
func (r *reserved) lock(ctx context.Context) (unlock func(), err error) {
	select {
	case r.calls <- struct{}{}:
		return func() { <-r.calls }, nil
	case <-ctx.Done():
		return nil, api.Errorf(api.CodeUnavailable, "other networks are being made; try again")
	}
}

// reserve keeps a subnet, or any that is free, for the network that Docker makes.
func (d *Driver) reserve(ctx context.Context, subnet netip.Prefix) (netip.Prefix, error) {
	r := d.reserved
	unlock, err := r.lock(ctx)
	if err != nil {
		return netip.Prefix{}, err
	}
	defer unlock()
	got, err := d.Service.ReserveSubnet(ctx, subnet)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.changed = true // an answer may have been lost
		return netip.Prefix{}, err
	}
	r.until[got] = time.Now().Add(reserveTime)
	return got, nil
}

// has says whether a subnet is reserved for a network that Docker makes and that is not
// in the cluster yet.
func (r *reserved) has(subnet netip.Prefix) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.until[subnet]
	return ok
}

// unreserve gives a subnet up, the next time that networks are compared.
func (d *Driver) unreserve(subnet netip.Prefix) {
	d.reserved.mu.Lock()
	defer d.reserved.mu.Unlock()
	delete(d.reserved.until, subnet)
	d.reserved.changed = true
}

// keepReserved has the cluster keep what is known here, and nothing else.
func (d *Driver) keepReserved(ctx context.Context) error {
	r := d.reserved
	unlock, err := r.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	r.mu.Lock()
	now := time.Now()
	for subnet, until := range r.until {
		if now.After(until) && !d.known.anyAwaited(subnet) {
			delete(r.until, subnet)
			r.changed = true
		}
	}
	changed, keep := r.changed, slices.Collect(maps.Keys(r.until))
	r.changed = false // what changes from now on is for the next time
	r.mu.Unlock()
	if !changed {
		return nil
	}
	err = d.Service.KeepSubnets(ctx, keep)
	if err != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.changed = true
	}
	return err
}

type poolRelease struct{ PoolID string }

// releasePool gives up the subnet of a network that Docker could not make. Docker
// calls it as well for each network that it has deleted, whose subnet may be
// reserved for another by then.
func (d *Driver) releasePool(_ context.Context, req poolRelease) (empty, error) {
	subnet, _, err := parsePool(req.PoolID)
	if err != nil {
		return empty{}, nil // nothing is kept under it
	}
	d.reserved.mu.Lock()
	of := d.reserved.freed[subnet] > 0
	if of {
		if d.reserved.freed[subnet]--; d.reserved.freed[subnet] == 0 {
			delete(d.reserved.freed, subnet)
		}
	}
	_, kept := d.reserved.until[subnet]
	d.reserved.mu.Unlock()
	if of || !kept || d.known.anyAwaited(subnet) {
		return empty{}, nil
	}
	d.unreserve(subnet)
	d.soon()
	return empty{}, nil
}

// frees says that Docker deletes a network with a subnet, and will give it back.
func (r *reserved) frees(subnet netip.Prefix) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if subnet.IsValid() {
		r.freed[subnet]++
	}
}
