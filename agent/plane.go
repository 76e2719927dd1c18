package agent

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/socketplane/socketplane/agent/link"
	"github.com/socketplane/socketplane/ovs"
)

// The data plane is the switch and the kernel's part of the networks here. What they
// should do is known from what the store said last and from the table, so mending
// them needs no store. Two loops do it: every pass of converge, which may wait for
// the store for long, and watchPlane, which never does. Nothing in this file may
// call the store.

// Locks of Agent.planes.
const (
	planeLock = "plane" // on the switch's tunnels, ports and gateways as a whole
	waysLock  = "ways"  // on Agent.ways
)

// watchPlane mends the data plane when the switch may have lost what it was told,
// and compares all of it when converge has not come to that in time.
func (a *Agent) watchPlane(ctx context.Context) error {
	var again bool // something was not done
	var last string
	for {
		t := time.NewTimer(a.planeRest(again))
		changed := false
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-a.Switch.Changed():
			changed = true
			a.forgetful.Store(true)
			a.compare.Store(true)
		case <-t.C:
		}
		t.Stop()
		now := changed || again
		switch {
		case !a.isLoaded():
			if changed { // converge is at it, and knows what is to be done first
				signal(a.kick)
			}
			continue
		case !now && a.planeRest(false) > retryConverge:
			continue // converge has come to it meanwhile
		}
		skipped := a.skipped.Load()
		lost, err := a.mendPlane(ctx, now)
		if ctx.Err() != nil {
			return nil
		}
		again = err != nil || now && a.skipped.Load() != skipped
		if err != nil || len(lost) > 0 { // trouble is for Status, and the end of an endpoint for the cluster to hear
			signal(a.kick)
		}
		text := ""
		if err != nil {
			text = oneLine(err.Error())
		}
		if text != "" && text != last {
			a.Logger.Warn("the data plane is not as it should be; trying on", "err", text)
		}
		last = text
	}
}

// planeRest is how long watchPlane may wait: until converge is overdue, if nothing is
// left to do.
func (a *Agent) planeRest(again bool) time.Duration {
	if again {
		return retryConverge
	}
	if !a.isLoaded() {
		return slowTimer
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	oldest := a.planeAt
	if a.flowsAt.Before(oldest) {
		oldest = a.flowsAt
	}
	return max(slowTimer+retryConverge-time.Since(oldest), retryConverge)
}

// mendPlane brings the data plane to what it should be. now says that the switch may
// have lost what it was told; otherwise a whole comparison is due.
func (a *Agent) mendPlane(ctx context.Context, now bool) (lost []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, convergeTimeout)
	defer cancel()
	if !now {
		a.compare.Store(true)
	}
	var g errgroup.Group
	g.Go(func() error { a.convergeWays(ctx); return nil })
	g.Go(func() error {
		// A switch that was restarted has its ports as before, under their numbers:
		// first of all it is told its flows. Where a number is another's by now they
		// would lead astray, and the ports come first.
		if ports, err := a.Switch.Ports(ctx); err == nil && a.numbered(ports) {
			_ = a.forwarding.Do(ctx) // convergePlane tries again and tells
		}
		gone, _, err := a.convergePlane(ctx)
		lost = gone
		return err
	})
	err = g.Wait()
	if !now {
		err = errors.Join(err, a.restoreHost(ctx))
	}
	return lost, err
}

// numbered says whether the ports that flows name are there and have the numbers
// that flows name them by.
func (a *Agent) numbered(ports []ovs.Port) bool {
	there := make(map[string]int, len(ports))
	for _, p := range ports {
		there[p.Name] = p.OFPort
	}
	for peer, ofport := range a.tunnelPorts() {
		if there[ovs.TunnelName(peer)] != ofport {
			return false
		}
	}
	for _, seg := range a.segments.list() {
		if seg.ofport != 0 && there[link.GatewayName(seg.record.ID)] != seg.ofport {
			return false
		}
	}
	for _, l := range a.table.all() {
		if l.Attached && l.OFPort != 0 && there[l.Port] != l.OFPort {
			return false
		}
	}
	return true
}

// convergePlane compares tunnels, ports and gateways with what should be, and then
// tells the switch its flows. lost are attached endpoints without an interface;
// what becomes of them the cluster has to hear. told says that the switch's
// database has answered.
func (a *Agent) convergePlane(ctx context.Context) (lost []string, told bool, err error) {
	unlock, err := a.planes.Lock(ctx, planeLock)
	if err != nil {
		return nil, false, err
	}
	defer unlock()
	_, err = a.convergeTunnels(ctx)
	errs := []error{err}
	ports, err := a.Switch.Ports(ctx)
	if err != nil {
		return nil, false, errors.Join(append(errs, err)...)
	}
	lost, err = a.convergePorts(ctx, ports)
	errs = append(errs, err,
		a.convergeVeths(ctx, ports),
		a.convergeGateways(ctx, ports),
		a.forwarding.Do(ctx),
	)
	err = errors.Join(errs...)
	if err == nil {
		a.mu.Lock()
		a.planeAt = time.Now()
		a.mu.Unlock()
	}
	return lost, true, err
}
