package agent

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/socketplane/socketplane/agent/cluster"
	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/agent/state"
)

// vxlanOverhead is what VXLAN over IPv4 adds to an inner IP packet: outer IPv4
// 20, UDP 8, VXLAN 8 (RFC 7348) and the inner Ethernet header 14 bytes.
// vxlanOverhead6 is the same over IPv6, whose header is 40.
const (
	vxlanOverhead  = 50
	vxlanOverhead6 = 70
)

// peerGrace is how long a peer whose record has vanished keeps its tunnel. A
// store that lost its keys is written anew by the hosts within seconds; a host
// that was taken out for good is in no hurry.
const peerGrace = time.Minute

// leftGrace is the same for a peer that has no endpoints any more, either: a host
// that leaves takes those out first, and nothing is lost with its tunnel. It
// outlasts the moment between the two watches that tell of it.
const leftGrace = 2 * time.Second

// freshFor bounds how long a reading of the view's own stands against the
// snapshots of a watch that seem to be older.
const freshFor = time.Minute

// view is the cluster as the watches last showed it, decoded. Each snapshot
// replaces its part whole. Beside the watches, single values come from readings
// that are newer than what the watch has shown; they last until it has caught
// up. Which is newer, the version of a key and the index of a snapshot tell:
// both stores count them alike.
type view struct {
	self string // this host's id
	now  func() time.Time

	mu        sync.Mutex
	hosts     []cluster.Host
	vanished  map[string]time.Time // peers in hosts without a record, since when
	gone      map[string]bool      // hosts that are dead, see cluster.Detector
	networks  map[string]network.Record
	endpoints map[string]map[string]list // network -> host, without ours
	index     map[string]uint64          // of the last snapshot, by part
	fresh     map[string]time.Time       // keys whose value is from a reading of our own
	stale     map[string][]error         // what could not be decoded, by part
	seen      map[string]bool            // parts that have been read at least once
}

// list is one host's endpoints on one network.
type list struct {
	version   uint64 // of its key
	endpoints []endpoint
}

// The parts of the view, each a prefix of the store.
const (
	partHosts     = cluster.HostsPrefix
	partNetworks  = network.NetworksPrefix
	partEndpoints = network.EndpointsPrefix
)

func newView(self string) *view {
	return &view{
		self: self, now: time.Now, vanished: map[string]time.Time{}, gone: map[string]bool{},
		networks: map[string]network.Record{}, endpoints: map[string]map[string]list{},
		index: map[string]uint64{}, fresh: map[string]time.Time{},
		stale: map[string][]error{}, seen: map[string]bool{},
	}
}

// set takes a snapshot of one part. A value that cannot be decoded is reported
// and stops only what it describes: where an older reading of the same key is
// known, that one stays in force. gone are the subnets that no network has any
// more.
func (v *view) set(part string, snap state.Snapshot) (gone []netip.Prefix, errs []error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch part {
	case partHosts:
		v.hosts, errs = v.decodeHosts(snap.Entries)
	case partNetworks:
		gone, errs = v.setNetworks(snap)
	case partEndpoints:
		v.endpoints, errs = v.decodeLists(snap)
	}
	v.index[part] = snap.Index
	v.seen[part], v.stale[part] = true, errs
	return gone, errs
}

// decodeHosts keeps what is known of a host whose record cannot be decoded, and
// for a while of one whose record is gone.
func (v *view) decodeHosts(entries []state.Entry) ([]cluster.Host, []error) {
	hosts, errs := cluster.DecodeAll(entries)
	known, keys, vteps := map[string]bool{}, map[string]bool{}, map[netip.Addr]bool{}
	for _, h := range hosts {
		known[h.ID], vteps[h.VTEP] = true, true
		if h.Alive {
			delete(v.gone, h.ID)
		}
	}
	for _, e := range entries {
		keys[strings.TrimPrefix(e.Key, cluster.HostsPrefix)] = true
	}
	for _, h := range v.hosts {
		switch {
		case known[h.ID]:
			delete(v.vanished, h.ID)
			continue
		case keys[h.ID]: // it is there, and cannot be read
			delete(v.vanished, h.ID)
			hosts = append(hosts, h)
			continue
		case h.ID == v.self:
			continue
		}
		since, ok := v.vanished[h.ID]
		if !ok {
			since = v.now()
		}
		if vteps[h.VTEP] || v.now().Sub(since) >= v.grace(h.ID) { // another has taken its place
			delete(v.vanished, h.ID)
			continue
		}
		v.vanished[h.ID] = since
		h.Alive = false
		hosts = append(hosts, h)
	}
	return hosts, errs
}

// expire forgets the peers whose grace is over.
func (v *view) expire() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.hosts = slices.DeleteFunc(slices.Clone(v.hosts), func(h cluster.Host) bool {
		since, ok := v.vanished[h.ID]
		if !ok || v.now().Sub(since) < v.grace(h.ID) {
			return false
		}
		delete(v.vanished, h.ID)
		return true
	})
}

// grace is how long a peer without a record is kept. The caller holds v.mu.
func (v *view) grace(id string) time.Duration {
	if v.gone[id] {
		return 0
	}
	for _, hosts := range v.endpoints {
		if _, ok := hosts[id]; ok {
			return peerGrace
		}
	}
	return leftGrace
}

// leaving says whether a peer has vanished that is to be forgotten.
func (v *view) leaving() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.vanished) > 0
}

// setGone says which peers are dead, and gives those that were not before and
// those that are not any more.
func (v *view) setGone(gone map[string]time.Time) (died, back []cluster.Host) {
	v.mu.Lock()
	defer v.mu.Unlock()
	now := map[string]bool{}
	for _, h := range v.hosts {
		if _, ok := gone[h.ID]; ok && !h.Alive && h.ID != v.self {
			now[h.ID] = true
		}
		switch was := v.gone[h.ID]; {
		case now[h.ID] && !was:
			died = append(died, h)
		case was && !now[h.ID]:
			back = append(back, h)
		}
	}
	v.gone = now
	return died, back
}

// isGone says whether a peer is dead.
func (v *view) isGone(id string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.gone[id]
}

func (v *view) setNetworks(snap state.Snapshot) (gone []netip.Prefix, errs []error) {
	records := map[string]network.Record{}
	for _, e := range snap.Entries {
		r, err := network.Decode(e)
		if err != nil {
			errs = append(errs, err)
			name := strings.TrimPrefix(e.Key, network.NetworksPrefix)
			if old, ok := v.networks[name]; ok {
				records[name] = old
			}
			continue
		}
		records[r.ID] = r
	}
	for id, r := range v.networks {
		if v.newer(network.Key(id), r.Version, snap.Index) {
			records[id] = r
		}
	}
	for id, r := range v.networks {
		if records[id].Subnet != r.Subnet {
			gone = append(gone, r.Subnet)
		}
	}
	v.networks = records
	return gone, errs
}

// newer says whether a value that we have read ourselves is newer than a
// snapshot. Once the watch has caught up it is forgotten where it came from.
func (v *view) newer(key string, version, index uint64) bool {
	since, ok := v.fresh[key]
	if ok && version > index && v.now().Sub(since) < freshFor {
		return true
	}
	delete(v.fresh, key)
	return false
}

func (v *view) decodeLists(snap state.Snapshot) (map[string]map[string]list, []error) {
	lists := map[string]map[string]list{}
	put := func(netID, hostID string, l list) {
		if lists[netID] == nil {
			lists[netID] = map[string]list{}
		}
		lists[netID][hostID] = l
	}
	var errs []error
	for _, e := range snap.Entries {
		netID, hostID, eps, err := decodeEndpoints(e)
		if err != nil {
			errs = append(errs, err)
			eps = v.endpoints[netID][hostID].endpoints
		}
		if hostID != "" && hostID != v.self {
			put(netID, hostID, list{version: e.Version, endpoints: eps})
		}
	}
	for netID, hosts := range v.endpoints {
		for hostID, l := range hosts {
			if v.newer(network.EndpointsKey(netID, hostID), l.version, snap.Index) {
				put(netID, hostID, l)
			}
		}
	}
	return lists, errs
}

// complete says whether every part has been read; before that the view says
// nothing of what should be.
func (v *view) complete() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.seen[partHosts] && v.seen[partNetworks] && v.seen[partEndpoints]
}

// peers lists the other hosts, sorted by name.
func (v *view) peers() []cluster.Host {
	v.mu.Lock()
	defer v.mu.Unlock()
	peers := slices.DeleteFunc(slices.Clone(v.hosts), func(h cluster.Host) bool { return h.ID == v.self })
	slices.SortFunc(peers, func(a, b cluster.Host) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.ID, b.ID))
	})
	return peers
}

// reachable lists the peers that are not gone.
func (v *view) reachable() []cluster.Host {
	return slices.DeleteFunc(v.peers(), func(h cluster.Host) bool { return v.isGone(h.ID) })
}

// hostName gives a host's name for people; its id where no record tells.
func (v *view) hostName(id string) string {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, h := range v.hosts {
		if h.ID == id {
			return h.Name
		}
	}
	return id
}

// mtu is the largest IP packet that passes inside a network between any two
// hosts: the smallest underlay MTU less the encapsulation.
func (v *view) mtu(self cluster.Host) int {
	v.mu.Lock()
	defer v.mu.Unlock()
	least, overhead := self.MTU, vxlanOverhead
	for _, h := range append(slices.Clone(v.hosts), self) {
		least = min(least, h.MTU)
		if h.VTEP.Is6() {
			overhead = vxlanOverhead6
		}
	}
	return least - overhead
}

// network gives a network that can be used; not one that is being deleted.
func (v *view) network(id string) (network.Record, bool) {
	r, ok := v.record(id)
	return r, ok && !r.Deleting
}

// record gives a network, also one that is being deleted.
func (v *view) record(id string) (network.Record, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	r, ok := v.networks[id]
	return r, ok
}

// putNetwork takes a consistent reading of a network, unless the watch has
// shown something newer: its deletion, too.
func (v *view) putNetwork(r network.Record) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if old, ok := v.networks[r.ID]; r.Version <= v.index[partNetworks] && (!ok || old.Version >= r.Version) || ok && old.Version > r.Version {
		return
	}
	v.networks[r.ID] = r
	v.fresh[network.Key(r.ID)] = v.now()
}

// dropNetwork forgets a network that this host has deleted.
func (v *view) dropNetwork(id string) (r network.Record, ok bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	r, ok = v.networks[id]
	delete(v.networks, id)
	delete(v.fresh, network.Key(id))
	return r, ok
}

// putLists takes a consistent reading of one network's endpoints: of each list
// what the watch has not shown yet.
func (v *view) putLists(entries []state.Entry) []error {
	v.mu.Lock()
	defer v.mu.Unlock()
	var errs []error
	for _, e := range entries {
		netID, hostID, eps, err := decodeEndpoints(e)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if hostID == v.self || e.Version <= max(v.index[partEndpoints], v.endpoints[netID][hostID].version) {
			continue
		}
		if v.endpoints[netID] == nil {
			v.endpoints[netID] = map[string]list{}
		}
		v.endpoints[netID][hostID] = list{version: e.Version, endpoints: eps}
		v.fresh[e.Key] = v.now()
	}
	return errs
}

// remotes gives the endpoints of a network on other hosts, by host.
func (v *view) remotes(netID string) map[string][]endpoint {
	v.mu.Lock()
	defer v.mu.Unlock()
	all := make(map[string][]endpoint, len(v.endpoints[netID]))
	for hostID, l := range v.endpoints[netID] {
		all[hostID] = l.endpoints
	}
	return all
}

// problems lists what could not be decoded.
func (v *view) problems() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	var list []string
	for _, part := range []string{partHosts, partNetworks, partEndpoints} {
		for _, err := range v.stale[part] {
			list = append(list, oneLine(err.Error())+"; it is left alone")
		}
	}
	return list
}
