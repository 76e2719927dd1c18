package agent

import (
	"net/netip"

	"github.com/socketplane/socketplane/agent/cluster"
	"github.com/socketplane/socketplane/agent/verdict"
)

// hostIndex caches lookups over the hosts that are needed for every endpoint or list. It
// is built once per snapshot.
type hostIndex struct {
	at    map[string]int // by id; index in view.hosts
	named map[string]int // by name; number of hosts
	mtu   int            // of the networks; 0 if not computed yet
	self  mtuFacts       // the input of mtu
}

// mtuFacts are the properties of this host that the MTU of its networks depends on.
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

// host returns the host with an id. The caller holds v.mu.
func (v *view) host(id string) (cluster.Host, bool) {
	i, ok := v.known.at[id]
	if !ok {
		return cluster.Host{}, false
	}
	return v.hosts[i], true
}

// mtu returns the size in bytes of the largest IP packet that passes between any two
// hosts inside a network.
func (v *view) mtu(self cluster.Host) int {
	v.mu.Lock()
	defer v.mu.Unlock()
	facts := mtuFacts{id: self.ID, vtep: self.VTEP, mtu: self.MTU}
	if v.known.mtu == 0 || v.known.self != facts {
		v.known.mtu, v.known.self = verdict.MTU(self, v.hosts), facts
	}
	return v.known.mtu
}

// alive reports whether a host holds its record.
func (v *view) alive(id string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	h, ok := v.host(id)
	return ok && h.Alive
}

// hostName returns the name of a host, or its id if there is no record.
func (v *view) hostName(id string) string {
	v.mu.Lock()
	defer v.mu.Unlock()
	if h, ok := v.host(id); ok {
		return h.Name
	}
	return id
}

// namesake reports whether a host other than the one with this id has the name.
func (v *view) namesake(id, name string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	others := v.known.named[name]
	if h, ok := v.host(id); ok && h.Name == name {
		others--
	}
	return others > 0
}
