package agent

import (
	"context"
	"sync"
	"time"

	"github.com/socketplane/socketplane/agent/network"
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
	outside := sync.OnceValue(a.outside)
	var records []network.Record
	var routing [][]claim
	for _, seg := range segments {
		used[seg.record.ID] = true
		s, routed, more := a.segmentState(seg, tunnels, outside)
		f.Segments, notes = append(f.Segments, s), append(notes, more...)
		records, routing = append(records, seg.record), append(routing, routed)
	}
	routes := a.routesNow(f, records, routing, outside)
	for i, r := range records {
		f.Segments[i].Routes = routes[r.ID]
	}
	if a.routes.cover(used) {
		signal(a.kick) // converge removes the kernel's routes that ended before a restart
	}
	a.contests.only(used)
	a.clearNotes(noteAllowed, notes...)
	return f
}

// segmentState returns a network as the switch should have it, without routes. routing
// lists the attached endpoints with routes.
func (a *Agent) segmentState(seg segment, tunnels map[string]int, outside func() outside) (s ovs.Segment, routing []claim, notes []string) {
	r := seg.record
	s = ovs.Segment{
		VNI: r.VNI, Subnet: r.Subnet, Gateway: r.Gateway, GatewayMAC: macOf(r.Gateway), GatewayPort: seg.ofport,
		Metadata: a.metadata(r),
	}
	for _, l := range a.table.on(r.ID) {
		if l.Attached && l.OFPort > 0 {
			s.Local = append(s.Local, ovs.Local{OFPort: l.OFPort, MAC: l.MAC, IP: l.IP, Allowed: l.Allowed})
			if len(l.Routes) > 0 {
				routing = append(routing, claim{host: thisHost, ofport: l.OFPort, endpoint: l.endpoint})
			}
		}
	}
	var claims []claim
	add := func(lists map[string][]endpoint, missed bool) {
		for hostID, list := range lists {
			for _, ep := range list {
				if ep.Attached && tunnels[hostID] > 0 {
					claims = append(claims, claim{host: hostID, ofport: tunnels[hostID], endpoint: ep, missed: missed})
					if len(ep.Routes) > 0 {
						routing = append(routing, claims[len(claims)-1])
					}
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
	return s, routing, a.judgeAllowed(r, s.Local, s.Remote, outside)
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
