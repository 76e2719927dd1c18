// Package verdict judges the networks and hosts in the store by what this host itself
// knows. It does not trust writers of the store: where a record is used, it refuses one
// that would cost this host its traffic or redirect it. The judgement is a pure function
// and does no I/O.
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
	Subnets     []Subnet       // subnets on its interfaces, without those of our gateways
	AllowPublic []netip.Prefix // ranges that its settings allow beside the private ones
	Now         time.Time
}

// Subnet is a subnet that this host reaches on an interface without a router.
type Subnet struct {
	Prefix    netip.Prefix
	Interface string
	Uplink    bool // other hosts may be there; otherwise only containers or virtual machines
}

// Stored is the decoded content of the store.
type Stored struct {
	Networks []network.Record
	Hosts    []cluster.Host
	Gone     map[string]bool // hosts that are dead
}

// Memory is the state between judgements: the first holder of an address or network keeps
// it. The zero Memory knows no networks and peers.
type Memory struct {
	networks map[string]network.Record // accepted in the last judgement
	peers    map[string]netip.Addr     // tunnel address in use, by host
	owners   map[netip.Addr]string     // first known host at an address
	moving   map[string]move           // peers whose record has a new address, and since when
}

type move struct {
	to    netip.Addr
	since time.Time
}

// Remember returns a Memory that knows the peers of existing tunnels.
func Remember(tunnels map[string]netip.Addr) Memory { return Memory{peers: tunnels} }

// Verdict is the judgement on everything in the store.
type Verdict struct {
	Networks map[string]Network
	Peers    map[string]Peer
	Hosts    []netip.Addr // valid tunnel addresses in the records of other hosts, including dead ones
	Memory   Memory
	Again    time.Duration // when to judge again even if nothing changes; 0: not needed
}

// Network is the judgement on one network.
type Network struct {
	Record  network.Record // the judged record
	Refused string         // why this host does not use it; empty if it may
	Warning string         // what is wrong although it stays in use
}

// Peer is the judgement on one other host.
type Peer struct {
	VTEP      netip.Addr // address in use; the zero Addr: none
	Elsewhere bool       // VTEP differs from its record
	Problem   string     // why VTEP differs from its record, unless a move is pending or the machine was reinstalled
}

// Judge judges everything in the store. used are the networks that this host has
// programmed, with the values in use.
func Judge(s Stored, used map[string]network.Record, f Facts, m Memory) Verdict {
	v := Verdict{Networks: map[string]Network{}, Peers: map[string]Peer{}}
	v.Memory = Memory{
		networks: map[string]network.Record{}, peers: map[string]netip.Addr{},
		owners: map[netip.Addr]string{}, moving: map[string]move{},
	}
	settled := newPrefixSet() // networks in which a new peer's address must not lie
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

// same reports whether two records have the same effect on packets.
func same(a, b network.Record) bool {
	return a.Subnet == b.Subnet && a.Gateway == b.Gateway && a.VLAN == b.VLAN && a.VNI == b.VNI
}
