package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/socketplane/socketplane/agent/firewall"
	"github.com/socketplane/socketplane/ovs"
)

// convergeTimeout bounds one pass.
const convergeTimeout = 30 * time.Second

// converge reconciles the host with the desired state once. It may be called at any time.
// It deletes only objects that belong to the agent and that it can judge, and nothing
// before the store has delivered the desired state. If compare is true, it also reads the
// flows of the switch, the packet filter and this host's keys in the store, instead of
// assuming that they are as last written. It continues after an error and returns all
// errors joined.
func (a *Agent) converge(ctx context.Context, compare bool) error {
	ctx, cancel := context.WithTimeout(ctx, convergeTimeout)
	defer cancel()
	errs := []error{a.refreshSelf(), a.findUplinks(ctx)}
	if !a.view.complete() {
		return errors.Join(errs...)
	}
	a.view.expire()
	a.judge()
	errs = append(errs, a.convergeHost(ctx))
	a.convergeWays(ctx)
	if !a.isLoaded() {
		if err := a.loadOver(ctx); err != nil {
			return errors.Join(append(errs, err)...)
		}
	} else if compare && a.anyBlocked() {
		errs = append(errs, a.loadLists(ctx))
	}
	if a.reclaim.Swap(false) {
		errs = append(errs, a.retakeAll(ctx))
	}
	a.convergeClaims()
	if compare {
		a.lookAtMACs()
		a.compare.Store(true)
		a.compareNAT.Store(true)
	}
	lost, told, err := a.convergePlane(ctx)
	errs = append(errs, err)
	if !told { // nothing can be removed from a switch that does not answer
		return errors.Join(errs...)
	}
	for _, id := range lost {
		errs = append(errs, a.lockedID(ctx, id, a.mendPort))
	}
	errs = append(errs, a.convergeEnds(ctx), a.convergeHolds(ctx), a.convergeLists(ctx, compare))
	return errors.Join(errs...)
}

// loadOver loads the stored state on top of the existing ports and tunnels.
func (a *Agent) loadOver(ctx context.Context) error {
	if told, err := a.convergeTunnels(ctx); !told { // flows without the tunnels would cut off the other hosts
		return err
	}
	ports, err := a.Switch.Ports(ctx)
	if err != nil {
		return err
	}
	return a.load(ctx, ports)
}

// refreshSelf reads this host's address and MTU again. On failure the last values stay.
func (a *Agent) refreshSelf() error {
	self, err := a.Self()
	if err != nil {
		return fmt.Errorf("look at this host: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.self = self
	return nil
}

// convergeTunnels creates a tunnel to each trusted peer. told reports whether the switch
// answered, even if it could not create all of them.
func (a *Agent) convergeTunnels(ctx context.Context) (told bool, err error) {
	var tunnels []ovs.Tunnel
	vtep := a.host().VTEP
	peers := a.trusted()
	marked := !a.userspace()
	for _, h := range peers {
		t := ovs.Tunnel{Peer: h.ID, Remote: h.VTEP}
		if marked {
			// The userspace datapath would look up this address in a route table that it
			// discards at every interface change. It bypasses the kernel's rules, so no
			// rule there would see a mark.
			t.Local, t.Mark = vtep, firewall.TunnelMark
		}
		tunnels = append(tunnels, t)
	}
	ports, err := a.Switch.SetTunnels(ctx, tunnels)
	if ports == nil && err != nil {
		return false, fmt.Errorf("tunnels: %w", err)
	}
	a.mu.Lock()
	a.tunnels = maps.Clone(ports)
	news := marked && !a.marked
	a.marked = marked
	a.mu.Unlock()
	a.probed(peers, ports)
	if news { // the firewall's rule about the mark waits for this
		if failed := a.convergeFirewall(ctx); failed != nil {
			signal(a.kick)
			err = errors.Join(err, failed)
		}
	}
	return true, err
}

// locked runs f under the lock of the endpoint that has the port, because an earlier
// observation may show an attach or detach half done. It skips an endpoint whose lock is
// held and counts that in a.skipped, so that a pass follows soon.
func (a *Agent) locked(ctx context.Context, port string, f func(context.Context) error) error {
	unlock, ok := a.names.TryLock(port)
	if !ok {
		a.skipped.Add(1)
		return nil
	}
	defer unlock()
	return f(ctx)
}

// convergeEnds completes detaches that failed because the switch was away, and releases
// that failed because the store was.
func (a *Agent) convergeEnds(ctx context.Context) error {
	var errs []error
	for _, l := range a.table.all() {
		if l.Releasing || l.Dirty {
			errs = append(errs, a.lockedID(ctx, l.ID, a.end))
		}
	}
	return errors.Join(errs...)
}

func (a *Agent) end(ctx context.Context, id string) error {
	l, ok := a.table.get(id)
	switch {
	case ok && l.Releasing:
		return a.release(ctx, l)
	case ok && l.Dirty:
		return a.detach(ctx, l)
	}
	return nil
}

// publishersAtOnce bounds the concurrent writes of one pass.
const publishersAtOnce = 8

// convergeLists publishes this host's endpoint lists where the store has different ones.
// If compare is true, it checks the stored lists too.
func (a *Agent) convergeLists(ctx context.Context, compare bool) error {
	networks := map[string]bool{}
	for _, id := range a.table.networks() {
		networks[id] = true
	}
	a.pubMu.Lock()
	for id, p := range a.publishers {
		networks[id] = true
		if compare {
			p.recheck.Store(true)
		}
	}
	a.pubMu.Unlock()
	g := errgroup.Group{}
	g.SetLimit(publishersAtOnce)
	errs := make(chan error, len(networks))
	for id := range networks {
		g.Go(func() error {
			errs <- a.publish(ctx, id)
			return nil
		})
	}
	err := g.Wait()
	close(errs)
	for e := range errs {
		err = errors.Join(err, e)
	}
	a.forgetPublishers()
	return err
}

// tunnelsMarked reports whether the switch has taken tunnels with firewall.TunnelMark in
// this life of the agent.
func (a *Agent) tunnelsMarked() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.marked
}

func (a *Agent) isLoaded() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.loaded
}

func (a *Agent) isBlocked(networkID string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.blocked[networkID]
}

func (a *Agent) anyBlocked() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.blocked) > 0
}
