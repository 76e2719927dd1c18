package agent

import (
	"net/netip"

	"github.com/socketplane/socketplane/agent/cluster"
	"github.com/socketplane/socketplane/agent/verdict"
)

// hostIndex is what is asked of the hosts again and again, once for an endpoint or a
// list of them: it is found once for each snapshot.
type hostIndex struct {
	at    map[string]int // index in view.hosts, by id
	named map[string]int // how many have a name
	mtu   int            // of the networks; 0: not computed yet
	self  mtuFacts       // what mtu was computed with
}

// mtuFacts is what of this host its networks' MTU depends on.
type mtuFacts struct {
	id   string
	vtep netip.Addr
	mtu  int
}

// putHosts replaces the hosts. The caller holds v.mu.
func (v *view) putHosts(hosts []cluster.Host) {
	x := hostIndex{at: make(map[string]int, len(hosts)), named: make(map[string]int, len(hosts))}
	for i, h := range hosts {
		x.at[h.ID] = i
		x.named[h.Name]++
	}
	v.hosts, v.known = hosts, x
}

// host gives a host by its id. The caller holds v.mu.
func (v *view) host(id string) (cluster.Host, bool) {
	i, ok := v.known.at[id]
	if !ok {
		return cluster.Host{}, false
	}
	return v.hosts[i], true
}

// mtu is the largest IP packet that passes inside a network between any two hosts.
func (v *view) mtu(self cluster.Host) int {
	v.mu.Lock()
	defer v.mu.Unlock()
	facts := mtuFacts{id: self.ID, vtep: self.VTEP, mtu: self.MTU}
	if v.known.mtu == 0 || v.known.self != facts {
		v.known.mtu, v.known.self = verdict.MTU(self, v.hosts), facts
	}
	return v.known.mtu
}

// alive says whether a host holds its record.
func (v *view) alive(id string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	h, ok := v.host(id)
	return ok && h.Alive
}

// hostName gives a host's name for people; its id where no record tells.
func (v *view) hostName(id string) string {
	v.mu.Lock()
	defer v.mu.Unlock()
	if h, ok := v.host(id); ok {
		return h.Name
	}
	return id
}

// namesake says whether a host other than the one with this id has a name.
func (v *view) namesake(id, name string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	others := v.known.named[name]
	if h, ok := v.host(id); ok && h.Name == name {
		others--
	}
	return others > 0
}
