package agent

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/socketplane/socketplane/agent/link"
	"github.com/socketplane/socketplane/ovs"
)

// The data plane is the switch and the kernel's part of the networks on this host. Its
// desired state follows from the table and from what the store last said, so repairing it
// needs no store. Two loops do that: every pass of converge, which may wait long for the
// store, and watchPlane, which never does. Nothing in this file may call the store.

// Keys of Agent.planes.
const (
	planeLock = "plane" // for the switch's tunnels, ports and gateways as a whole
	waysLock  = "ways"  // for Agent.ways
)

// planePatience is how long watchPlane leaves the retry of a failed pass to converge,
// which comes by each second unless it waits for the store.
const planePatience = 5 * time.Second

// watchPlane repairs the data plane when the switch may have lost its state. It also
// compares all of it when a converge pass is overdue. After an error it requests a pass of
// converge, and retries itself only if converge does not come by.
func (a *Agent) watchPlane(ctx context.Context) error {
	var again bool // the last round skipped something
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
		now := changed || again || a.planeFailed()
		switch {
		case !a.isLoaded():
			if changed { // converge is still loading and knows what must come first
				signal(a.kick)
			}
			continue
		case !changed && !again && (a.planeRest(false) > retryConverge || a.planeBusy()):
			continue // converge has come by meanwhile, or is there
		}
		skipped := a.skipped.Load()
		lost, err := a.mendPlane(ctx, now)
		if ctx.Err() != nil {
			return nil
		}
		again = err == nil && now && a.skipped.Load() != skipped
		if err != nil || len(lost) > 0 { // converge reports errors in Status, and lost endpoints to the cluster
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

// planeRest returns how long watchPlane may wait. If nothing is left to do, it waits
// until converge is overdue.
func (a *Agent) planeRest(again bool) time.Duration {
	if again {
		return retryConverge
	}
	if !a.isLoaded() {
		return slowTimer
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.triedAt.After(a.planeAt) {
		return max(planePatience-time.Since(a.triedAt), retryConverge)
	}
	oldest := a.planeAt
	if a.flowsAt.Before(oldest) {
		oldest = a.flowsAt
	}
	return max(slowTimer+retryConverge-time.Since(oldest), retryConverge)
}

// planeFailed reports whether the last pass over the data plane failed.
func (a *Agent) planeFailed() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.triedAt.After(a.planeAt)
}

// planeBusy reports whether a pass over the data plane is in progress.
func (a *Agent) planeBusy() bool {
	unlock, ok := a.planes.TryLock(planeLock)
	if ok {
		unlock()
	}
	return !ok
}

// mendPlane repairs the data plane. now reports that the switch may have lost its state,
// or that the last round was incomplete. Otherwise mendPlane compares everything.
func (a *Agent) mendPlane(ctx context.Context, now bool) (lost []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, convergeTimeout)
	defer cancel()
	if !now {
		a.compare.Store(true)
	}
	var g errgroup.Group
	g.Go(func() error { a.convergeWays(ctx); return nil })
	g.Go(func() error {
		// A restarted switch keeps its ports and their numbers, so program the flows
		// first. If any number has changed, the old numbers would misdirect packets, and
		// the ports must come first.
		if ports, err := a.Switch.Ports(ctx); err == nil && a.numbered(ports) {
			_ = a.forwarding.Do(ctx) // convergePlane tries again and reports the error
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

// numbered reports whether all ports that the flows refer to exist under the same
// numbers.
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

// convergePlane repairs tunnels, ports and gateways, and then programs the flows. lost
// lists the attached endpoints without an interface, which the caller must report to the
// cluster. told reports whether the switch's database has answered.
func (a *Agent) convergePlane(ctx context.Context) (lost []string, told bool, err error) {
	unlock, err := a.planes.Lock(ctx, planeLock)
	if err != nil {
		return nil, false, err
	}
	defer unlock()
	if err := ctx.Err(); err != nil {
		return nil, false, err // the caller has spent its time elsewhere, so this is no attempt
	}
	defer func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.triedAt = time.Now()
		if err == nil {
			a.planeAt = a.triedAt
		}
	}()
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
	return lost, true, errors.Join(errs...)
}
