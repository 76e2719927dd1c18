package agent

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/cluster"
	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/agent/verdict"
	"github.com/socketplane/socketplane/ovs"
)

// Allowed is what the settings of this host let networks do. The store alone does
// not: who can write to it is not root of this host.
type Allowed struct {
	Public   []netip.Prefix // subnets that are no private range
	Routes   []netip.Prefix // prefixes that may lead to containers
	Metadata []string       // names of networks whose containers reach link-local addresses; "*": all
}

func (a Allowed) metadata(networkID string) bool {
	return slices.Contains(a.Metadata, networkID) || slices.Contains(a.Metadata, "*")
}

// judgement is what this host makes of the store, as last judged.
type judgement struct {
	mu      sync.Mutex
	verdict verdict.Verdict
	memory  verdict.Memory
	earlier map[string]network.Record // in use in an earlier life
	again   bool                      // another judgement is on its way
}

// remember takes the tunnels and the networks in use of an earlier life for what
// was known first. The endpoints of that life are in the table.
func (a *Agent) remember(ports []ovs.Port) {
	known, used := map[string]netip.Addr{}, map[string]network.Record{}
	for _, p := range ports {
		switch p.Kind {
		case ovs.KindTunnel:
			if remote, err := netip.ParseAddr(p.IDs[ovs.IDRemote]); err == nil {
				known[p.IDs[ovs.IDPeer]] = remote
			}
		case ovs.KindGateway:
			r, ok := recordOfGateway(p)
			if ok && slices.ContainsFunc(a.table.on(r.ID), func(l local) bool { return r.Subnet.Contains(l.IP) }) {
				used[r.ID] = r
			}
		}
	}
	a.judged.mu.Lock()
	defer a.judged.mu.Unlock()
	a.judged.memory, a.judged.earlier = verdict.Remember(known), used
}

// used gives the networks that this host has programmed. Before the endpoints of an
// earlier life are known their gateways tell.
func (a *Agent) used() map[string]network.Record {
	used := a.segments.inForce()
	if !a.isLoaded() {
		for id, r := range a.judged.earlier {
			if _, ok := used[id]; !ok {
				used[id] = r
			}
		}
	}
	return used
}

// judge judges what the store says by what this host is now. It does so for every
// change of one of them, never for a packet or an endpoint.
func (a *Agent) judge() {
	if !a.view.complete() {
		return
	}
	self := a.host()
	a.judged.mu.Lock()
	stored := a.view.stored()
	v := verdict.Judge(stored, a.used(), verdict.Facts{
		Self: a.id, VTEP: self.VTEP, Routes: self.Routes, Addrs: self.Addrs, Subnets: a.subnets(),
		AllowPublic: a.Allowed.Public, Now: a.view.now(),
	}, a.judged.memory)
	a.judged.verdict, a.judged.memory = v, v.Memory
	again := v.Again > 0 && !a.judged.again
	a.judged.again = a.judged.again || again
	a.judged.mu.Unlock()
	if again {
		a.errands.run(v.Again+undoTimeout, func(ctx context.Context) {
			a.errands.pause(ctx, v.Again+time.Millisecond)
			a.judged.mu.Lock()
			a.judged.again = false
			a.judged.mu.Unlock()
			signal(a.kick)
		})
	}
	a.noteVerdict(v, self, stored.Hosts)
}

// maxVerdictNotes bounds how many refused records of a kind status names one by one:
// a store can be filled with them.
const maxVerdictNotes = 20

// noteVerdict has status say what is not believed.
func (a *Agent) noteVerdict(v verdict.Verdict, self cluster.Host, hosts []cluster.Host) {
	said := map[string]map[string]string{noteRecord: {}, notePeer: {}, noteSmall: {}}
	for id, n := range v.Networks {
		if n.Refused != "" || n.Warning != "" {
			said[noteRecord][id] = n.Refused + n.Warning
		}
	}
	for id, p := range v.Peers {
		if p.Problem != "" {
			said[notePeer][id] = p.Problem
		}
	}
	for _, h := range hosts {
		if h.ID != self.ID && !verdict.MTUCounts(h) {
			said[noteSmall][h.ID] = fmt.Sprintf("the record of host %q (%s) says that its underlay MTU is %d, which is less than %d, the least of IPv6: it is ignored; "+
				"larger packets do not reach that host if it is true", h.Name, h.ID, h.MTU, verdict.LeastMTU)
		}
	}
	if !verdict.MTUCounts(self) {
		said[noteSmall][self.ID] = fmt.Sprintf("the underlay MTU of this host is %d, which is less than %d: the other hosts ignore it, and their packets of more than %d bytes do not arrive here; raise the MTU of the interface that has %s",
			self.MTU, verdict.LeastMTU, a.view.mtu(self), self.VTEP)
	}
	for _, kind := range []string{noteRecord, notePeer, noteSmall} {
		var keep []string
		for i, id := range slices.Sorted(maps.Keys(said[kind])) {
			if i == maxVerdictNotes {
				a.note(kind, fmt.Sprintf("%d more records of the store like the last are not believed", len(said[kind])-i))
				keep = append(keep, kind)
				break
			}
			a.note(kind+id, said[kind][id])
			keep = append(keep, kind+id)
		}
		a.clearNotes(kind, keep...)
	}
}

// believed says whether a host is taken to be at the tunnel address of its record.
func (a *Agent) believed(id string) bool {
	a.judged.mu.Lock()
	defer a.judged.mu.Unlock()
	p := a.judged.verdict.Peers[id]
	return p.VTEP.IsValid() && !p.Elsewhere
}

// subnets are those on this host's interfaces, for a judgement.
func (a *Agent) subnets() []verdict.Subnet {
	up := a.uplinksNow()
	var list []verdict.Subnet
	for _, s := range up.Subnets {
		list = append(list, verdict.Subnet{Prefix: s.Prefix, Interface: s.Interface, Uplink: slices.Contains(up.Names, s.Interface)})
	}
	return list
}

// trusted lists the peers that this host has a tunnel to, each with the tunnel
// address that is in force.
func (a *Agent) trusted() []cluster.Host {
	peers := a.view.reachable()
	a.judged.mu.Lock()
	defer a.judged.mu.Unlock()
	var list []cluster.Host
	for _, h := range peers {
		if vtep := a.judged.verdict.Peers[h.ID].VTEP; vtep.IsValid() {
			h.VTEP = vtep
			list = append(list, h)
		}
	}
	return list
}

// verdictOn judges one network as it was read just now.
func (a *Agent) verdictOn(r network.Record) verdict.Network {
	look := func() (verdict.Network, bool) {
		a.judged.mu.Lock()
		defer a.judged.mu.Unlock()
		n, ok := a.judged.verdict.Networks[r.ID]
		return n, ok && n.Record == r
	}
	n, ok := look()
	if !ok {
		a.judge()
		n, _ = look()
	}
	return n
}

// inForce gives a network as this host uses it: with the values that it is
// programmed with while anybody is on it here, and an error where the record is
// not to be used.
func (a *Agent) inForce(r network.Record) (network.Record, error) {
	if used, ok := a.segments.force(r.ID); ok {
		r.Subnet, r.Gateway, r.VLAN, r.VNI = used.Subnet, used.Gateway, used.VLAN, used.VNI
		return r, nil
	}
	if n := a.verdictOn(r); n.Refused != "" {
		return r, &api.Error{Code: api.CodeConflict, Message: oneLine(n.Refused)}
	}
	return r, nil
}

// metadata says whether a network's containers reach link-local addresses here.
func (a *Agent) metadata(r network.Record) bool { return r.AllowMetadata && a.Allowed.metadata(r.ID) }

// problemOf says what keeps this host from using a network as its record says.
func (a *Agent) problemOf(r network.Record) string {
	n := a.verdictOn(r)
	switch {
	case n.Refused != "":
		return oneLine(n.Refused)
	case n.Warning != "":
		return oneLine(n.Warning)
	case r.AllowMetadata && !a.metadata(r):
		return metadataProblem(r.ID)
	}
	return ""
}

func metadataProblem(networkID string) string {
	return fmt.Sprintf("network %q asks for the cloud's metadata, which the settings of this host do not allow it: "+
		"add it to allow_metadata in section [network] of /etc/socketplane/socketplane.toml and restart the agent, if its containers may read them", networkID)
}

// noteMetadata says which networks in use here ask for more than this host allows.
func (a *Agent) noteMetadata() {
	var keep []string
	for _, seg := range a.segments.list() {
		if seg.record.AllowMetadata && !a.metadata(seg.record) {
			keep = append(keep, noteMeta+seg.record.ID)
			a.note(noteMeta+seg.record.ID, metadataProblem(seg.record.ID))
		}
	}
	a.clearNotes(noteMeta, keep...)
}
