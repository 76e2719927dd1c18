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

// reserveTime is how long a subnet stays reserved for a network that Docker is creating.
// It is longer than Docker needs to create the network and then to report its name
// (pendingTime).
const reserveTime = 2 * pendingTime

// reserved contains the subnets that the cluster reserves for the networks that Docker is
// creating on this host. Docker requests the subnet first and reports the network's name
// last.
type reserved struct {
	calls chan struct{} // holds a token during a call to the cluster, so that its reservations and ours agree

	mu      sync.Mutex
	until   map[netip.Prefix]time.Time
	freed   map[netip.Prefix]int // releases to expect from Docker for the subnets of networks that it deletes
	changed bool                 // the cluster may reserve more than until contains
}

func newReserved() *reserved {
	return &reserved{
		calls: make(chan struct{}, 1), until: map[netip.Prefix]time.Time{}, freed: map[netip.Prefix]int{},
		changed: true, // by an earlier instance
	}
}

// lock waits until no other goroutine calls the cluster.
func (r *reserved) lock(ctx context.Context) (unlock func(), err error) {
	select {
	case r.calls <- struct{}{}:
		return func() { <-r.calls }, nil
	case <-ctx.Done():
		return nil, api.Errorf(api.CodeUnavailable, "other networks are being made; try again")
	}
}

// reserve reserves a subnet for a network that Docker is creating. With the zero Prefix it
// selects a free one.
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
		r.changed = true // the response may have been lost
		return netip.Prefix{}, err
	}
	r.until[got] = time.Now().Add(reserveTime)
	return got, nil
}

// has reports whether a subnet is reserved for a network that Docker is creating and that
// is not in the cluster yet.
func (r *reserved) has(subnet netip.Prefix) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.until[subnet]
	return ok
}

// unreserve releases a subnet at the next comparison of the networks.
func (d *Driver) unreserve(subnet netip.Prefix) {
	d.reserved.mu.Lock()
	defer d.reserved.mu.Unlock()
	delete(d.reserved.until, subnet)
	d.reserved.changed = true
}

// keepReserved makes the cluster's reservations for this host match those in until.
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
	r.changed = false // later changes are for the next call
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

// releasePool releases the subnet of a network that Docker could not create. Docker also
// calls it for each network that it has deleted. The subnet may be reserved for another
// network by then.
func (d *Driver) releasePool(_ context.Context, req poolRelease) (empty, error) {
	subnet, _, err := parsePool(req.PoolID)
	if err != nil {
		return empty{}, nil // an invalid id has no reservation
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

// frees records that Docker deletes a network with this subnet and will release it.
func (r *reserved) frees(subnet netip.Prefix) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if subnet.IsValid() {
		r.freed[subnet]++
	}
}
