package agent

import (
	"net/netip"
	"strings"

	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/agent/state"
)

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
			put(netID, hostID, newList(e.Version, eps))
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

// network returns a usable network. A network that is being deleted is not usable.
func (v *view) network(id string) (network.Record, bool) {
	r, ok := v.record(id)
	return r, ok && !r.Deleting
}

// record returns a network, even one that is being deleted.
func (v *view) record(id string) (network.Record, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	r, ok := v.networks[id]
	return r, ok
}

// putNetwork stores a record that was read consistently, unless the watch has shown
// something newer, such as its deletion.
func (v *view) putNetwork(r network.Record) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if old, ok := v.networks[r.ID]; r.Version <= v.index[partNetworks] && (!ok || old.Version >= r.Version) || ok && old.Version > r.Version {
		return
	}
	v.networks[r.ID] = r
	v.fresh[network.Key(r.ID)] = v.now()
}

// dropNetwork removes a network that this host has deleted.
func (v *view) dropNetwork(id string) (r network.Record, ok bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	r, ok = v.networks[id]
	delete(v.networks, id)
	delete(v.fresh, network.Key(id))
	return r, ok
}

// putLists stores the endpoint lists of one network that were read consistently. It skips
// lists that the watch has already shown.
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
		v.endpoints[netID][hostID] = newList(e.Version, eps)
		v.fresh[e.Key] = v.now()
	}
	return errs
}

// remotes returns the endpoints of a network on other hosts, by host.
func (v *view) remotes(netID string) map[string][]endpoint {
	v.mu.Lock()
	defer v.mu.Unlock()
	all := make(map[string][]endpoint, len(v.endpoints[netID]))
	for hostID, l := range v.endpoints[netID] {
		all[hostID] = l.endpoints
	}
	return all
}

// sharing returns the endpoints of a network on other hosts that are allowed addresses,
// by host.
func (v *view) sharing(netID string) map[string][]endpoint {
	v.mu.Lock()
	defer v.mu.Unlock()
	all := map[string][]endpoint{}
	for hostID, l := range v.endpoints[netID] {
		if len(l.sharing) > 0 {
			all[hostID] = l.sharing
		}
	}
	return all
}
