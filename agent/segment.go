package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/socketplane/socketplane/agent/link"
	"github.com/socketplane/socketplane/agent/nat"
	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/ovs"
)

// segment is a network in use on this host: at least one endpoint is attached, or about
// to be.
type segment struct {
	record network.Record
	seen   time.Time       // when record was last confirmed
	ofport int             // of the gateway's port; 0 if there is none yet
	users  map[string]bool // ids of endpoints and names of keepers
}

// occupied reports whether an endpoint is on the network, not just a keeper.
func (s *segment) occupied() bool {
	for user := range s.users {
		if !strings.HasPrefix(user, keeperPrefix) {
			return true
		}
	}
	return false
}

// segments holds the segments by network. It has a lock per network, which is held while
// the gateway of the network is created or removed.
type segments struct {
	locks keyLocks
	mu    sync.Mutex
	byID  map[string]*segment

	keepers int // number of keepers created so far
}

// keeperPrefix starts the names of keepers; see linger.
const keeperPrefix = "/"

// lingerTime is how long a network stays ready on a host after its last container there
// has ended. Containers often follow one another, and replacing a gateway costs more than
// they do.
const lingerTime = 2 * time.Second

// standbyTime is how long a network stays ready for an endpoint that is reserved but not
// attached. Docker may pull an image first, or never start the container.
const standbyTime = 30 * time.Second

func newSegments() *segments { return &segments{byID: map[string]*segment{}} }

// enter adds a user to a network and returns the gateway's port number, or 0 if there is
// no gateway yet. While an endpoint is on the network here, the subnet, gateway, VLAN and
// VNI stay the same even if the store has others, because its packets depend on them. For
// freshFor, enter ignores a record older than the known one. After that it accepts it,
// because a recreated store counts versions from the start.
func (s *segments) enter(r network.Record, user string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	seg := s.byID[r.ID]
	if seg == nil {
		seg = &segment{record: r, users: map[string]bool{}}
		s.byID[r.ID] = seg
	}
	if r.Version < seg.record.Version && time.Since(seg.seen) < freshFor {
		seg.users[user] = true
		return seg.ofport
	}
	seg.seen = time.Now()
	if seg.occupied() {
		was := seg.record
		r.Subnet, r.Gateway, r.VLAN, r.VNI = was.Subnet, was.Gateway, was.VLAN, was.VNI
	}
	if was := seg.record; was.Subnet != r.Subnet || was.Gateway != r.Gateway || was.VLAN != r.VLAN || was.VNI != r.VNI {
		seg.ofport = 0 // another network with the same name: its gateway must be created first
	}
	seg.record = r
	seg.users[user] = true
	return seg.ofport
}

// exit removes a user and reports whether it was the last. In that case the segment is
// removed at once, so that the next user starts from scratch.
func (s *segments) exit(networkID, user string) (last bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	seg := s.byID[networkID]
	if seg == nil || !seg.users[user] {
		return false
	}
	delete(seg.users, user)
	if len(seg.users) > 0 {
		return false
	}
	delete(s.byID, networkID)
	return true
}

// linger removes a user like exit. If the user was the last one, linger adds a keeper in
// its place and returns the keeper's name, which no endpoint can have.
func (s *segments) linger(networkID, user string) (keeper string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	seg := s.byID[networkID]
	if seg == nil || !seg.users[user] {
		return ""
	}
	delete(seg.users, user)
	if len(seg.users) > 0 {
		return ""
	}
	s.keepers++
	keeper = keeperPrefix + strconv.Itoa(s.keepers)
	seg.users[keeper] = true
	return keeper
}

// users lists the users by network.
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

// port returns the gateway's OpenFlow port, or 0 if there is none.
func (s *segments) port(networkID string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if seg := s.byID[networkID]; seg != nil {
		return seg.ofport
	}
	return 0
}

// counted reports whether user is a user of the network.
func (s *segments) counted(networkID, user string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	seg := s.byID[networkID]
	return seg != nil && seg.users[user]
}

// record returns a network as this host uses it.
func (s *segments) record(networkID string) (network.Record, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if seg := s.byID[networkID]; seg != nil {
		return seg.record, true
	}
	return network.Record{}, false
}

// inForce returns the networks that endpoints of this host are on, with the values with
// which they are programmed.
func (s *segments) inForce() map[string]network.Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make(map[string]network.Record, len(s.byID))
	for id, seg := range s.byID {
		if seg.occupied() {
			all[id] = seg.record
		}
	}
	return all
}

// force is inForce for one network.
func (s *segments) force(networkID string) (network.Record, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if seg := s.byID[networkID]; seg != nil && seg.occupied() {
		return seg.record, true
	}
	return network.Record{}, false
}

// used reports whether a network has a user on this host.
func (s *segments) used(networkID string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	seg := s.byID[networkID]
	return seg != nil && len(seg.users) > 0
}

// list returns the segments without their users, sorted by network.
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

// join prepares a network on this host before an endpoint uses it: this host knows the
// network's endpoints, and its gateway exists.
func (a *Agent) join(ctx context.Context, r network.Record, user string) error {
	if a.segments.enter(r, user) != 0 {
		return nil
	}
	return a.prepare(ctx, r)
}

// joinSoon adds a user and prepares the network in the background, for a container that
// will be attached shortly.
func (a *Agent) joinSoon(r network.Record, user string) {
	if a.segments.enter(r, user) != 0 {
		return
	}
	a.errands.run(undoTimeout, func(ctx context.Context) {
		if err := a.prepare(ctx, r); err != nil {
			// The attach tries again and reports the error to its caller.
			a.Logger.Warn("network is not ready yet", "network", r.ID, "err", err)
		}
	})
}

// prepare makes a network work here, unless all its users have left.
func (a *Agent) prepare(ctx context.Context, r network.Record) error {
	unlock, err := a.segments.locks.Lock(ctx, r.ID)
	if err != nil {
		return err
	}
	defer unlock()
	if !a.segments.used(r.ID) || a.segments.port(r.ID) != 0 {
		return nil
	}
	if newest, ok := a.segments.record(r.ID); ok {
		r = newest
	}
	if err := a.loadEndpoints(ctx, r.ID); err != nil {
		return err
	}
	ofport, err := a.ensureGateway(ctx, r)
	if err == nil {
		err = a.nat.Do(ctx)
	}
	if err != nil {
		return err
	}
	a.segments.setPort(r.ID, ofport)
	return nil
}

// listPatience bounds how long the first user of a network waits for the store.
const listPatience = 3 * time.Second

// loadEndpoints reads a network's endpoints from the store. Then the first user here
// reaches all of them immediately, although the watch may lag behind. If the store is
// away, loadEndpoints makes do with what the watch has shown.
func (a *Agent) loadEndpoints(ctx context.Context, networkID string) error {
	reading, cancel := context.WithTimeout(ctx, listPatience)
	defer cancel()
	entries, err := a.Store.List(reading, network.EndpointsPrefix+networkID+"/")
	if away(err) && ctx.Err() == nil {
		a.Logger.Warn("the endpoints of a network are those known before", "network", networkID, "err", err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the endpoints of network %q: %w", networkID, err)
	}
	for _, err := range a.view.putLists(entries) {
		a.Logger.Error("a list of endpoints is left alone", "network", networkID, "err", err)
	}
	return nil
}

// ensureGateway creates or repairs the network's gateway port on this host and returns
// its OpenFlow port. The caller holds the network's lock, and updates the packet filter.
func (a *Agent) ensureGateway(ctx context.Context, r network.Record) (int, error) {
	g := a.gatewayOf(r)
	ids := map[string]string{
		idNetwork: r.ID, idSubnet: r.Subnet.String(), idGateway: r.Gateway.String(), idVNI: strconv.FormatUint(uint64(r.VNI), 10),
	}
	if r.AllowMetadata {
		ids[idMetadata] = "true"
	}
	ofport, err := a.Switch.AddPort(ctx, ovs.Port{Name: g.Name, Kind: ovs.KindGateway, VLAN: r.VLAN, MAC: g.MAC, MTU: g.MTU, IDs: ids})
	if err == nil {
		err = a.Links.EnsureGateway(ctx, g)
	}
	if err != nil {
		return 0, fmt.Errorf("gateway of network %q: %w", r.ID, err)
	}
	return ofport, nil
}

// gatewayOf returns the gateway port that the kernel should have for a network.
func (a *Agent) gatewayOf(r network.Record) link.Gateway {
	self := a.host()
	keep := !a.routes.covered(r.ID) // asked before the routes, which may be settled meanwhile
	return link.Gateway{
		Name: link.GatewayName(r.ID), MAC: macOf(r.Gateway), MTU: a.view.mtu(self), Source: self.VTEP, Userspace: a.userspace(),
		Addr: netip.PrefixFrom(r.Gateway, r.Subnet.Bits()), Routes: a.kernelRoutes(r.ID), KeepRoutes: keep,
	}
}

// leave removes a user from a network, and the gateway with the last user.
func (a *Agent) leave(ctx context.Context, networkID, user string) error {
	if !a.segments.exit(networkID, user) {
		return nil
	}
	unlock, err := a.segments.locks.Lock(ctx, networkID)
	if err != nil {
		return err
	}
	defer unlock()
	if a.segments.used(networkID) { // a new user has joined since
		return nil
	}
	return a.dropGateway(ctx, networkID)
}

// leaveNow is leave for a pass over the data plane. If the network's lock is held, leaveNow
// skips the user, because the holder may be waiting for the store. A later pass repeats it.
func (a *Agent) leaveNow(ctx context.Context, networkID, user string) error {
	unlock, ok := a.segments.locks.TryLock(networkID)
	if !ok {
		a.skipped.Add(1)
		return nil
	}
	defer unlock()
	if !a.segments.exit(networkID, user) || a.segments.used(networkID) {
		return nil
	}
	return a.dropGateway(ctx, networkID)
}

// leaveSoon removes a user from a network. If it was the last, the gateway and the
// network's flows are removed after a.linger.
func (a *Agent) leaveSoon(networkID, user string) {
	keeper := a.segments.linger(networkID, user)
	if keeper == "" {
		return
	}
	a.errands.run(a.linger+undoTimeout, func(ctx context.Context) {
		a.errands.pause(ctx, a.linger)
		if ctx.Err() != nil {
			return // the agent is ending; the next one removes the gateway
		}
		if err := errors.Join(a.leave(ctx, networkID, keeper), a.forwarding.Do(ctx)); err != nil {
			a.Logger.Warn("a network's gateway is not gone; trying on", "network", networkID, "err", err)
			signal(a.kick)
		}
	})
}

// dropGateway removes a network's gateway. The caller holds the network's lock.
func (a *Agent) dropGateway(ctx context.Context, networkID string) error {
	err := a.Switch.RemovePort(ctx, link.GatewayName(networkID))
	if err != nil {
		err = fmt.Errorf("gateway of network %q: %w", networkID, err)
	}
	return errors.Join(err, a.nat.Do(ctx))
}

// applyNAT programs the packet filter. It lets the networks in use here reach the
// outside, isolates them from each other, and forwards published ports to their
// endpoints. Only a.nat calls it, so an older set of rules never overwrites a newer one.
// It compares with the last set of rules, or with those in the kernel if a comparison is
// due.
func (a *Agent) applyNAT(ctx context.Context) error {
	rules := nat.Rules{Uplinks: a.uplinksNow().Names, DenyForward: a.DenyForward, Bridges: a.bridgesNow()}
	for _, seg := range a.segments.list() {
		rules.Networks = append(rules.Networks, nat.Network{
			Subnet: seg.record.Subnet, GatewayPort: link.GatewayName(seg.record.ID), Metadata: a.metadata(seg.record),
		})
	}
	rules.Published = a.publishedHere()
	if !a.compareNAT.Swap(false) {
		return a.NAT.Set(ctx, rules)
	}
	err := a.NAT.Compare(ctx, rules)
	if err != nil {
		a.compareNAT.Store(true)
	}
	return err
}
