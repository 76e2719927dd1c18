// Package verdict judges what the store says of networks and hosts by what this
// host knows itself. Whoever can write to the store is not to be believed: a
// record that would cost this host its traffic, or draw it away, is refused where
// it is used. The judgement is a pure function and does no I/O.
package verdict

import (
	"net/netip"
	"time"

	"github.com/socketplane/socketplane/agent/cluster"
	"github.com/socketplane/socketplane/agent/network"
)

// Facts are what this host knows without the store.
type Facts struct {
	Self        string         // id of this host
	VTEP        netip.Addr     // its tunnel address
	Routes      []netip.Prefix // its routes, without default routes and those of our gateways
	Addrs       []netip.Prefix // its addresses with their prefix lengths, without those of our gateways
	Subnets     []Subnet       // on its interfaces, without those of our gateways
	AllowPublic []netip.Prefix // ranges that its settings allow beside the private ones
	Now         time.Time
}

// Subnet is one that this host reaches on an interface without a router.
type Subnet struct {
	Prefix    netip.Prefix
	Interface string
	Uplink    bool // other hosts may be there; else only containers or virtual machines
}

// Stored is what the store says, decoded.
type Stored struct {
	Networks []network.Record
	Hosts    []cluster.Host
	Gone     map[string]bool // hosts that are dead
}

// Memory is what a judgement builds on: who was known first keeps what it has.
// The zero Memory knows nobody.
type Memory struct {
	networks map[string]network.Record // accepted last time
	peers    map[string]netip.Addr     // tunnel address in force, by host
	owners   map[netip.Addr]string     // host that was first known at an address
	moving   map[string]move           // peers whose record has another address since a moment
}

type move struct {
	to    netip.Addr
	since time.Time
}

// Remember gives a Memory that knows peers by the tunnels that are there.
func Remember(tunnels map[string]netip.Addr) Memory { return Memory{peers: tunnels} }

// Verdict is the judgement on everything stored.
type Verdict struct {
	Networks map[string]Network
	Peers    map[string]Peer
	Hosts    []netip.Addr // where the records name other hosts that can be there, dead ones too
	Memory   Memory
	Again    time.Duration // when to judge again although nothing changes; 0: not needed
}

// Network is the judgement on one network.
type Network struct {
	Record  network.Record // as judged
	Refused string         // why this host does not use it; empty: it may
	Warning string         // what is wrong although it stays in use
}

// Peer is the judgement on one other host.
type Peer struct {
	VTEP      netip.Addr // in force; the zero Addr: none
	Elsewhere bool       // that is not what its record says
	Problem   string     // why it is not, unless that is about to change
}

// Judge judges all that is stored. used are the networks that this host has
// programmed, with the values in force.
func Judge(s Stored, used map[string]network.Record, f Facts, m Memory) Verdict {
	v := Verdict{Networks: map[string]Network{}, Peers: map[string]Peer{}}
	v.Memory = Memory{
		networks: map[string]network.Record{}, peers: map[string]netip.Addr{},
		owners: map[netip.Addr]string{}, moving: map[string]move{},
	}
	settled := newPrefixSet() // the networks that a new peer may not lie in
	for id, r := range used {
		settled.add(r.Subnet, id)
	}
	for _, r := range s.Networks {
		if known, ok := m.networks[r.ID]; ok && same(known, r) {
			settled.add(r.Subnet, r.ID)
		}
	}
	j := judging{s: s, f: f, m: m, settled: settled, v: &v}
	j.peers()
	j.networks(used)
	return v
}

type judging struct {
	s       Stored
	f       Facts
	m       Memory
	settled *prefixSet
	v       *Verdict
}

// same says whether two records put the same on the wire.
func same(a, b network.Record) bool {
	return a.Subnet == b.Subnet && a.Gateway == b.Gateway && a.VLAN == b.VLAN && a.VNI == b.VNI
}
