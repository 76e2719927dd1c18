package agent

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/socketplane/socketplane/agent/cluster"
	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/agent/verdict"
)

// peerGrace is how long a peer whose record has vanished keeps its tunnel. If a store
// loses its keys, the hosts write them again within seconds. If a host was removed for
// good, its tunnel may stay for a while.
const peerGrace = time.Minute

// leftGrace replaces peerGrace for a peer that has no endpoints either. A host that
// leaves removes those first, so its tunnel is not needed. leftGrace is longer than the
// time between the snapshots of the two watches.
const leftGrace = 2 * time.Second

// decodeHosts decodes the records of the hosts. It keeps the last known state of a host
// whose record cannot be decoded, and for a grace period of one whose record is gone.
func (v *view) decodeHosts(entries []state.Entry) ([]cluster.Host, []error) {
	hosts, errs := cluster.DecodeAll(entries)
	known, keys := map[string]bool{}, map[string]bool{}
	for _, h := range hosts {
		known[h.ID] = true
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
		case keys[h.ID]: // the record exists but is unreadable
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
		// Keep the peer even if another host claims its tunnel address: judge decides who
		// has it. Otherwise a host could delete a record, claim its address, and count as
		// known first.
		if v.now().Sub(since) >= v.grace(h.ID) {
			delete(v.vanished, h.ID)
			continue
		}
		v.vanished[h.ID] = since
		h.Alive = false
		hosts = append(hosts, h)
	}
	return hosts, errs
}

// expire removes the peers whose grace period is over.
func (v *view) expire() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.vanished) == 0 {
		return
	}
	v.putHosts(slices.DeleteFunc(slices.Clone(v.hosts), func(h cluster.Host) bool {
		since, ok := v.vanished[h.ID]
		if !ok || v.now().Sub(since) < v.grace(h.ID) {
			return false
		}
		delete(v.vanished, h.ID)
		return true
	}))
}

// grace returns how long a peer without a record is kept. The caller holds v.mu.
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

// leaving reports whether any peer without a record is waiting to be removed.
func (v *view) leaving() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.vanished) > 0
}

// setGone sets which peers are dead. It returns the peers that died and those that came
// back since the last call.
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

// isGone reports whether a peer is dead.
func (v *view) isGone(id string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.gone[id]
}

// behind lists the names of the other live hosts that lack a capability; see
// cluster.Lacking. known reports whether all records could be read: a host with an
// unreadable record may lack it too. Both are of one moment, since a feature may be used
// only if no host is behind and all are known.
func (v *view) behind(capability string) (names []string, known bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, h := range cluster.Lacking(v.hosts, v.gone, capability) {
		if h.ID != v.self {
			names = append(names, h.Name)
		}
	}
	slices.Sort(names)
	return names, v.seen[partHosts] && len(v.stale[partHosts]) == 0
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

// reachable lists the peers that are not dead.
func (v *view) reachable() []cluster.Host {
	return slices.DeleteFunc(v.peers(), func(h cluster.Host) bool { return v.isGone(h.ID) })
}

// stored returns the part of the view that must be judged.
func (v *view) stored() verdict.Stored {
	v.mu.Lock()
	defer v.mu.Unlock()
	return verdict.Stored{
		Hosts: slices.Clone(v.hosts), Gone: maps.Clone(v.gone), Networks: slices.Collect(maps.Values(v.networks)),
	}
}
