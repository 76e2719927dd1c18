package agent

import (
	"maps"
	"slices"
	"strings"
	"sync"

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

// view is the cluster as the watches last showed it, decoded. Each snapshot
// replaces its part whole.
type view struct {
	self string // this host's id

	mu        sync.Mutex
	hosts     []cluster.Host
	networks  map[string]network.Record
	endpoints map[string]map[string][]endpoint // network -> host -> list, without ours
	stale     map[string][]error               // what could not be decoded, by part
	seen      map[string]bool                  // parts that have been read at least once
}

// The parts of the view, each a prefix of the store.
const (
	partHosts     = cluster.HostsPrefix
	partNetworks  = network.NetworksPrefix
	partEndpoints = network.EndpointsPrefix
)

func newView(self string) *view {
	return &view{
		self: self, networks: map[string]network.Record{}, endpoints: map[string]map[string][]endpoint{},
		stale: map[string][]error{}, seen: map[string]bool{},
	}
}

// set takes a snapshot of one part. A value that cannot be decoded is reported
// and stops only what it describes: where an older reading of the same key is
// known, that one stays in force.
func (v *view) set(part string, snap state.Snapshot) []error {
	v.mu.Lock()
	defer v.mu.Unlock()
	var errs []error
	switch part {
	case partHosts:
		v.hosts, errs = v.decodeHosts(snap.Entries)
	case partNetworks:
		v.networks, errs = v.decodeNetworks(snap.Entries)
	case partEndpoints:
		v.endpoints, errs = v.decodeLists(snap.Entries)
	}
	v.seen[part], v.stale[part] = true, errs
	return errs
}

func (v *view) decodeHosts(entries []state.Entry) ([]cluster.Host, []error) {
	hosts, errs := cluster.DecodeAll(entries)
	known := map[string]bool{}
	for _, h := range hosts {
		known[h.ID] = true
	}
	for _, e := range entries {
		id := strings.TrimPrefix(e.Key, cluster.HostsPrefix)
		i := slices.IndexFunc(v.hosts, func(h cluster.Host) bool { return h.ID == id })
		if !known[id] && i >= 0 {
			hosts = append(hosts, v.hosts[i])
		}
	}
	return hosts, errs
}

func (v *view) decodeNetworks(entries []state.Entry) (map[string]network.Record, []error) {
	records := map[string]network.Record{}
	var errs []error
	for _, e := range entries {
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
	return records, errs
}

func (v *view) decodeLists(entries []state.Entry) (map[string]map[string][]endpoint, []error) {
	lists := map[string]map[string][]endpoint{}
	var errs []error
	for _, e := range entries {
		netID, hostID, list, err := decodeEndpoints(e)
		if err != nil {
			errs = append(errs, err)
			netID, hostID, _ = strings.Cut(strings.TrimPrefix(e.Key, network.EndpointsPrefix), "/")
			list = v.endpoints[netID][hostID]
		}
		if hostID == v.self {
			continue
		}
		if lists[netID] == nil {
			lists[netID] = map[string][]endpoint{}
		}
		lists[netID][hostID] = list
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

// peers lists the other hosts.
func (v *view) peers() []cluster.Host {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(v.hosts), func(h cluster.Host) bool { return h.ID == v.self })
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
		if h.MTU > 0 {
			least = min(least, h.MTU)
		}
		if h.VTEP.Is6() {
			overhead = vxlanOverhead6
		}
	}
	return least - overhead
}

func (v *view) network(id string) (network.Record, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	r, ok := v.networks[id]
	return r, ok && !r.Deleting
}

func (v *view) putNetwork(r network.Record) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.networks[r.ID] = r
}

func (v *view) dropNetwork(id string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.networks, id)
}

// putLists takes a consistent reading of one network's endpoints, newer than
// what the watch has shown so far.
func (v *view) putLists(netID string, entries []state.Entry) []error {
	v.mu.Lock()
	defer v.mu.Unlock()
	lists, errs := v.decodeLists(entries)
	v.endpoints[netID] = lists[netID]
	return errs
}

// remotes gives the attached endpoints of a network on other hosts, by host.
func (v *view) remotes(netID string) map[string][]endpoint {
	v.mu.Lock()
	defer v.mu.Unlock()
	return maps.Clone(v.endpoints[netID])
}

// problems lists what could not be decoded.
func (v *view) problems() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	var list []string
	for _, part := range []string{partHosts, partNetworks, partEndpoints} {
		for _, err := range v.stale[part] {
			list = append(list, err.Error()+"; it is left alone: mend it or delete the key")
		}
	}
	return list
}
