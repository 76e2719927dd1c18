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

// peerGrace is how long a peer whose record has vanished keeps its tunnel. A
// store that lost its keys is written anew by the hosts within seconds; a host
// that was taken out for good is in no hurry.
const peerGrace = time.Minute

// leftGrace is the same for a peer that has no endpoints any more, either: a host
// that leaves takes those out first, and nothing is lost with its tunnel. It
// outlasts the moment between the two watches that tell of it.
const leftGrace = 2 * time.Second

// decodeHosts keeps what is known of a host whose record cannot be decoded, and
// for a while of one whose record is gone.
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
		// Should another have its tunnel address, the judgement says who has it: who
		// deletes a record and claims its address is not to be known first.
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

// expire forgets the peers whose grace is over.
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

// allKnow says whether every living host is capable of something, see cluster.AllKnow.
// A host whose record cannot be read may be capable of nothing.
func (v *view) allKnow(capability string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.seen[partHosts] && len(v.stale[partHosts]) == 0 && cluster.AllKnow(v.hosts, v.gone, capability)
}

// behind lists the names of other living hosts that are not capable of something, and
// says whether it is known of all.
func (v *view) behind(capability string) (names []string, known bool) {
	for _, h := range v.reachable() {
		if !h.Knows(capability) {
			names = append(names, h.Name)
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
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

// reachable lists the peers that are not gone.
func (v *view) reachable() []cluster.Host {
	return slices.DeleteFunc(v.peers(), func(h cluster.Host) bool { return v.isGone(h.ID) })
}

// stored is all of the view that has to be judged.
func (v *view) stored() verdict.Stored {
	v.mu.Lock()
	defer v.mu.Unlock()
	return verdict.Stored{
		Hosts: slices.Clone(v.hosts), Gone: maps.Clone(v.gone), Networks: slices.Collect(maps.Values(v.networks)),
	}
}
