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

// segment is a network that is used on this host: at least one endpoint is
// attached, or about to be.
type segment struct {
	record network.Record
	seen   time.Time       // when it was the record last
	ofport int             // of the gateway's port; 0: not there yet
	users  map[string]bool // endpoint ids
}

// occupied says whether an endpoint is on the network, not only a keeper.
func (s *segment) occupied() bool {
	for user := range s.users {
		if !strings.HasPrefix(user, keeperPrefix) {
			return true
		}
	}
	return false
}

// segments holds them by network, and a lock a network under which its gateway
// comes and goes.
type segments struct {
	locks keyLocks
	mu    sync.Mutex
	byID  map[string]*segment

	keepers int // made so far
}

// keeperPrefix begins the names of keepers, see linger.
const keeperPrefix = "/"

// lingerTime is how long a network stays ready on a host after its last
// container there has ended: containers often follow one another, and a
// gateway that comes and goes costs more than they do.
const lingerTime = 2 * time.Second

// standbyTime is how long a network stays ready for an endpoint that was reserved and
// is not attached yet: Docker may fetch an image first, or never start the container.
const standbyTime = 30 * time.Second

func newSegments() *segments { return &segments{byID: map[string]*segment{}} }

// enter counts user in and gives the gateway's port number, 0 when there is none
// yet. While an endpoint is on the network here, subnet, gateway, VLAN and VNI stay
// as they are, whatever the store says by now: its packets go by them. A record older
// than the one that is known changes nothing, for a while: a store that began anew
// counts its versions from the start.
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
		seg.ofport = 0 // another network of that name: its gateway has to be made first
	}
	seg.record = r
	seg.users[user] = true
	return seg.ofport
}

// exit counts user out, if it was counted in, and says whether it was the last:
// then the segment is gone at once, so that who enters next begins anew.
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

// linger counts user out like exit, but has a keeper stay in its place when it
// was the last: then it gives the keeper's name, which no endpoint can have.
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

// counted says whether user is counted in on a network.
func (s *segments) counted(networkID, user string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	seg := s.byID[networkID]
	return seg != nil && seg.users[user]
}

// record is the network as it is used here.
func (s *segments) record(networkID string) (network.Record, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if seg := s.byID[networkID]; seg != nil {
		return seg.record, true
	}
	return network.Record{}, false
}

// inForce gives the networks that endpoints of this host are on, with the values
// that they are programmed with.
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
func (a *Agent) joinSoon(r network.Record, user string) {
	if a.segments.enter(r, user) != 0 {
		return
	}
	a.errands.run(undoTimeout, func(ctx context.Context) {
		if err := a.prepare(ctx, r); err != nil {
			// The attach tries again and tells its caller.
			a.Logger.Warn("network is not ready yet", "network", r.ID, "err", err)
		}
	})
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

// listPatience is how long the first user of a network waits for the store.
const listPatience = 3 * time.Second

// loadEndpoints reads a network's endpoints from the store, so that its first
// user here reaches all of them at once: the watch may be a moment behind. With
// the store away, what the watch has shown must do.
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

// ensureGateway makes the network's gateway port on this host, or mends it, and
// gives its OpenFlow number. The caller holds the network's lock, and sees to
// the packet filter.
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

// gatewayOf is a network's gateway port as the kernel should have it.
func (a *Agent) gatewayOf(r network.Record) link.Gateway {
	self := a.host()
	return link.Gateway{
		Name: link.GatewayName(r.ID), MAC: macOf(r.Gateway), MTU: a.view.mtu(self), Source: self.VTEP, Userspace: a.userspace(),
		Addr: netip.PrefixFrom(r.Gateway, r.Subnet.Bits()), Routes: a.kernelRoutes(r.ID),
	}
}

// leave counts user out of a network and takes the gateway away behind the last.
func (a *Agent) leave(ctx context.Context, networkID, user string) error {
	if !a.segments.exit(networkID, user) {
		return nil
	}
	unlock, err := a.segments.locks.Lock(ctx, networkID)
	if err != nil {
		return err
	}
	defer unlock()
	if a.segments.used(networkID) { // by one who came since
		return nil
	}
	return a.dropGateway(ctx, networkID)
}

// leaveSoon counts user out of a network; should it be the last, the gateway
// and the network's flows go a little later.
func (a *Agent) leaveSoon(networkID, user string) {
	keeper := a.segments.linger(networkID, user)
	if keeper == "" {
		return
	}
	a.errands.run(a.linger+undoTimeout, func(ctx context.Context) {
		a.errands.pause(ctx, a.linger)
		if ctx.Err() != nil {
			return // the agent ends; the next one takes the gateway away
		}
		if err := errors.Join(a.leave(ctx, networkID, keeper), a.forwarding.Do(ctx)); err != nil {
			a.Logger.Warn("a network's gateway is not gone; trying on", "network", networkID, "err", err)
			signal(a.kick)
		}
	})
}

// dropGateway takes a network's gateway away. The caller holds the network's lock.
func (a *Agent) dropGateway(ctx context.Context, networkID string) error {
	err := a.Switch.RemovePort(ctx, link.GatewayName(networkID))
	if err != nil {
		err = fmt.Errorf("gateway of network %q: %w", networkID, err)
	}
	return errors.Join(err, a.nat.Do(ctx))
}

// applyNAT lets the networks that are used here out to the world, keeps them
// apart, and leads published ports to their endpoints. It runs inside a.nat: who
// computed an older list never comes last. It goes by what was set before, or after a
// call for a comparison by what is there.
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
