package agent

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/socketplane/socketplane/agent/link"
	"github.com/socketplane/socketplane/agent/nat"
	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/ovs"
)

// segment is a network that is used on this host: at least one endpoint is
// attached, or about to be.
type segment struct {
	record network.Record
	ofport int             // of the gateway's port; 0: not there yet
	users  map[string]bool // endpoint ids
}

// segments holds them by network, and a lock a network under which its gateway
// comes and goes.
type segments struct {
	locks keyLocks
	mu    sync.Mutex
	byID  map[string]*segment
}

func newSegments() *segments { return &segments{byID: map[string]*segment{}} }

// enter counts user in and gives the gateway's port number, 0 when there is none yet.
func (s *segments) enter(r network.Record, user string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	seg := s.byID[r.ID]
	if seg == nil {
		seg = &segment{record: r, users: map[string]bool{}}
		s.byID[r.ID] = seg
	}
	seg.record = r
	seg.users[user] = true
	return seg.ofport
}

// exit counts user out and says whether the network has no user any more.
func (s *segments) exit(networkID, user string) (empty bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	seg := s.byID[networkID]
	if seg == nil {
		return true
	}
	delete(seg.users, user)
	return len(seg.users) == 0
}

// users lists who is counted in, by network.
func (s *segments) users() map[string][]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := map[string][]string{}
	for id, seg := range s.byID {
		all[id] = slices.Sorted(maps.Keys(seg.users))
	}
	return all
}

func (s *segments) setPort(networkID string, ofport int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if seg := s.byID[networkID]; seg != nil {
		seg.ofport = ofport
	}
}

// port is the gateway's OpenFlow port, 0 while there is none.
func (s *segments) port(networkID string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if seg := s.byID[networkID]; seg != nil {
		return seg.ofport
	}
	return 0
}

func (s *segments) drop(networkID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.byID, networkID)
}

// used says whether anybody on this host is on the network.
func (s *segments) used(networkID string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	seg := s.byID[networkID]
	return seg != nil && len(seg.users) > 0
}

// list copies the segments, sorted by network.
func (s *segments) list() []segment {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]segment, 0, len(s.byID))
	for _, seg := range s.byID {
		list = append(list, segment{record: seg.record, ofport: seg.ofport})
	}
	slices.SortFunc(list, func(a, b segment) int { return strings.Compare(a.record.ID, b.record.ID) })
	return list
}

// join makes sure that the network works on this host before user is on it:
// its endpoints are known and its gateway is here.
func (a *Agent) join(ctx context.Context, r network.Record, user string) error {
	if a.segments.enter(r, user) != 0 {
		return nil
	}
	return a.prepare(ctx, r)
}

// joinSoon counts user in and makes the network ready behind the caller's back,
// for a container that will be attached in a moment.
func (a *Agent) joinSoon(ctx context.Context, r network.Record, user string) {
	if a.segments.enter(r, user) != 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	go func() {
		defer cancel()
		if err := a.prepare(ctx, r); err != nil {
			// The attach tries again and tells its caller.
			a.Logger.Warn("network is not ready yet", "network", r.ID, "err", err)
		}
	}()
}

// prepare makes a network work here, unless all its users have left meanwhile.
func (a *Agent) prepare(ctx context.Context, r network.Record) error {
	unlock, err := a.segments.locks.Lock(ctx, r.ID)
	if err != nil {
		return err
	}
	defer unlock()
	if !a.segments.used(r.ID) || a.segments.port(r.ID) != 0 {
		return nil
	}
	if err := a.loadEndpoints(ctx, r.ID); err != nil {
		return err
	}
	return a.ensureGateway(ctx, r)
}

// loadEndpoints reads a network's endpoints from the store, so that its first
// user here reaches all of them at once. The watch may be a moment behind.
func (a *Agent) loadEndpoints(ctx context.Context, networkID string) error {
	entries, err := a.Store.List(ctx, network.EndpointsPrefix+networkID+"/")
	if err != nil {
		return fmt.Errorf("read the endpoints of network %q: %w", networkID, err)
	}
	for _, err := range a.view.putLists(networkID, entries) {
		a.Logger.Error("a list of endpoints is left alone", "network", networkID, "err", err)
	}
	return nil
}

// ensureGateway makes the network's gateway on this host, or mends it. The
// caller holds the network's lock.
func (a *Agent) ensureGateway(ctx context.Context, r network.Record) error {
	self := a.host()
	name, mac, mtu := link.GatewayName(r.ID), macOf(r.Gateway), a.view.mtu(self)
	ofport, err := a.Switch.AddPort(ctx, ovs.Port{
		Name: name, Kind: ovs.KindGateway, VLAN: r.VLAN, MAC: mac, MTU: mtu,
		IDs: map[string]string{idNetwork: r.ID},
	})
	if err != nil {
		return fmt.Errorf("gateway of network %q: %w", r.ID, err)
	}
	err = a.Links.EnsureGateway(ctx, link.Gateway{
		Name: name, MAC: mac, MTU: mtu, Source: self.VTEP, Userspace: a.userspace(),
		Addr: netip.PrefixFrom(r.Gateway, r.Subnet.Bits()),
	})
	if err != nil {
		return fmt.Errorf("gateway of network %q: %w", r.ID, err)
	}
	a.segments.setPort(r.ID, ofport)
	return a.setNAT(ctx)
}

// leave counts user out of a network and takes the gateway away behind the last.
func (a *Agent) leave(ctx context.Context, networkID, user string) error {
	unlock, err := a.segments.locks.Lock(ctx, networkID)
	if err != nil {
		return err
	}
	defer unlock()
	if !a.segments.exit(networkID, user) {
		return nil
	}
	return a.dropGateway(ctx, networkID)
}

// dropGateway takes a network's gateway away. The caller holds the network's lock.
func (a *Agent) dropGateway(ctx context.Context, networkID string) error {
	a.segments.drop(networkID)
	if err := a.Switch.RemovePort(ctx, link.GatewayName(networkID)); err != nil {
		return fmt.Errorf("gateway of network %q: %w", networkID, err)
	}
	return a.setNAT(ctx)
}

// setNAT lets the networks that are used here out to the world, and keeps them apart.
func (a *Agent) setNAT(ctx context.Context) error {
	var rules nat.Rules
	for _, seg := range a.segments.list() {
		rules.Networks = append(rules.Networks, nat.Network{
			Subnet: seg.record.Subnet, GatewayPort: link.GatewayName(seg.record.ID),
		})
	}
	return a.NAT.Set(ctx, rules)
}
