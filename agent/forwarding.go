package agent

import (
	"context"
	"time"

	"github.com/socketplane/socketplane/ovs"
)

// forwardingState returns what the switch should do now. It depends on the view, the
// table, the segments, the tunnels, and on who held which address before.
func (a *Agent) forwardingState() ovs.Forwarding {
	tunnels := a.tunnelPorts()
	f := ovs.Forwarding{Self: a.host().VTEP, Probe: a.probe()}
	for _, h := range a.trusted() {
		if port := tunnels[h.ID]; port > 0 {
			f.Peers = append(f.Peers, ovs.Peer{ID: h.ID, VTEP: h.VTEP, OFPort: port})
		}
	}
	used := map[string]bool{}
	var notes []string
	segments := a.segments.list()
	routes := a.routesNow(segments)
	for _, seg := range segments {
		used[seg.record.ID] = true
		s, more := a.segmentState(seg, tunnels)
		s.Routes = routes[seg.record.ID]
		f.Segments, notes = append(f.Segments, s), append(notes, more...)
	}
	if a.routes.cover(used) {
		signal(a.kick) // converge removes the kernel's routes that ended before a restart
	}
	a.contests.only(used)
	a.clearNotes(noteAllowed, notes...)
	return f
}

func (a *Agent) segmentState(seg segment, tunnels map[string]int) (s ovs.Segment, notes []string) {
	r := seg.record
	s = ovs.Segment{
		VNI: r.VNI, Subnet: r.Subnet, Gateway: r.Gateway, GatewayMAC: macOf(r.Gateway), GatewayPort: seg.ofport,
		Metadata: a.metadata(r),
	}
	for _, l := range a.table.on(r.ID) {
		if l.Attached && l.OFPort > 0 {
			s.Local = append(s.Local, ovs.Local{OFPort: l.OFPort, MAC: l.MAC, IP: l.IP, Allowed: l.Allowed})
		}
	}
	var claims []claim
	add := func(lists map[string][]endpoint, missed bool) {
		for hostID, list := range lists {
			for _, ep := range list {
				if ep.Attached && tunnels[hostID] > 0 {
					claims = append(claims, claim{host: hostID, ofport: tunnels[hostID], endpoint: ep, missed: missed})
				}
			}
		}
	}
	add(a.view.remotes(r.ID), false)
	add(a.view.missedOn(r.ID), true)
	s, news := a.contests.settle(r.ID, claims, s, a.hostName)
	for _, sentence := range news {
		a.Logger.Warn("left alone: "+oneLine(sentence), "network", r.ID)
	}
	return s, a.judgeAllowed(r, s.Local, s.Remote)
}

// followMissed removes the flows of endpoints that have disappeared, once their grace
// period is over.
func (a *Agent) followMissed() {
	d := a.view.missing()
	if d == 0 || !a.missing.CompareAndSwap(false, true) {
		return // the errand in progress checks again
	}
	a.errands.run(d+applyTimeout, func(ctx context.Context) {
		a.errands.pause(ctx, d)
		a.missing.Store(false)
		if a.errands.ended() {
			return
		}
		if err := a.forwarding.Do(ctx); err != nil {
			signal(a.kick)
		}
		a.followMissed()
	})
}

// applyForwarding programs the difference between the last programmed state and the
// desired one. If a comparison is due, it compares with the actual flows of the switch
// instead. Only a.forwarding calls it.
func (a *Agent) applyForwarding(ctx context.Context) error {
	if !a.isLoaded() {
		return nil // the flows from before the restart are better than an incomplete set
	}
	if a.compare.Swap(false) {
		if err := a.Switch.Resync(ctx, a.forwardingState()); err != nil {
			a.compare.Store(true)
			return err
		}
		a.mu.Lock()
		a.flowsAt = time.Now()
		a.mu.Unlock()
		return nil
	}
	return a.Switch.SetForwarding(ctx, a.forwardingState())
}

func (a *Agent) tunnelPorts() map[string]int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.tunnels // replaced as a whole, never modified
}
