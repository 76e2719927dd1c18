package agent

import (
	"cmp"
	"context"
	"slices"

	"github.com/socketplane/socketplane/ovs"
)

// forwardingState is what the switch should do now: a pure function of the
// view, the table, the segments and the tunnels.
func (a *Agent) forwardingState() ovs.Forwarding {
	tunnels := a.tunnelPorts()
	f := ovs.Forwarding{Self: a.host().VTEP}
	for _, h := range a.view.reachable() {
		if port := tunnels[h.ID]; port > 0 {
			f.Peers = append(f.Peers, ovs.Peer{ID: h.ID, VTEP: h.VTEP, OFPort: port})
		}
	}
	for _, seg := range a.segments.list() {
		f.Segments = append(f.Segments, a.segmentState(seg, tunnels))
	}
	return f
}

func (a *Agent) segmentState(seg segment, tunnels map[string]int) ovs.Segment {
	r := seg.record
	s := ovs.Segment{
		VNI: r.VNI, Subnet: r.Subnet, Gateway: r.Gateway, GatewayMAC: macOf(r.Gateway), GatewayPort: seg.ofport,
	}
	for _, l := range a.table.on(r.ID) {
		if l.Attached && l.OFPort > 0 {
			s.Local = append(s.Local, ovs.Local{OFPort: l.OFPort, MAC: l.MAC, IP: l.IP})
		}
	}
	for hostID, list := range a.view.remotes(r.ID) {
		for _, ep := range list {
			// An address outside the network would be answered for by ARP and
			// drawn away from whoever has it.
			if ep.Attached && tunnels[hostID] > 0 && r.Subnet.Contains(ep.IP) && ep.IP != r.Gateway {
				s.Remote = append(s.Remote, ovs.Remote{OFPort: tunnels[hostID], MAC: ep.MAC, IP: ep.IP})
			}
		}
	}
	slices.SortFunc(s.Remote, func(x, y ovs.Remote) int {
		return cmp.Or(x.IP.Compare(y.IP), cmp.Compare(x.OFPort, y.OFPort))
	})
	// One owner each: should two hosts claim an address, the first tunnel has
	// it until the store says otherwise, and flows stay unambiguous.
	s.Remote = slices.CompactFunc(s.Remote, func(x, y ovs.Remote) bool { return x.IP == y.IP })
	s.Remote = slices.DeleteFunc(s.Remote, func(r ovs.Remote) bool {
		return slices.ContainsFunc(s.Local, func(l ovs.Local) bool { return l.IP == r.IP })
	})
	return s
}

// applyForwarding programs the difference between what the switch was told
// last, or after a call for a comparison what it really does, and what it
// should do now. It runs inside a.forwarding.
func (a *Agent) applyForwarding(ctx context.Context) error {
	if !a.isLoaded() {
		return nil // what the switch does already is better than half of it
	}
	if a.compare.Swap(false) {
		if err := a.Switch.Resync(ctx, a.forwardingState()); err != nil {
			a.compare.Store(true)
			return err
		}
		return nil
	}
	return a.Switch.SetForwarding(ctx, a.forwardingState())
}

func (a *Agent) tunnelPorts() map[string]int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.tunnels // replaced whole, never changed
}
