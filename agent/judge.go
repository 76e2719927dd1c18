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

// Allowed is what the settings of this host permit networks to do. The content of the
// store is not enough, because a writer of the store need not be root on this host.
type Allowed struct {
	Public   []netip.Prefix // subnets outside the private ranges
	Routes   []netip.Prefix // prefixes that may lead to containers
	Metadata []string       // names of networks whose containers may reach link-local addresses; "*" means all
}

func (a Allowed) metadata(networkID string) bool {
	return slices.Contains(a.Metadata, networkID) || slices.Contains(a.Metadata, "*")
}

// judgement is this host's latest verdict on the content of the store.
type judgement struct {
	mu      sync.Mutex
	verdict verdict.Verdict
	memory  verdict.Memory
	earlier map[string]network.Record // networks in use before the restart
	again   bool                      // another judgement is scheduled
}

// remember makes the tunnels and networks from before the restart count as known first.
// The table already holds the endpoints from before the restart.
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

// used returns the networks that this host has programmed. Until the endpoints from
// before the restart are loaded, it includes the networks that their gateways name. The
// caller holds a.judged.mu.
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

// judge checks the content of the store against the current state of this host. It runs
// once per change of either, never per packet or endpoint.
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

// maxVerdictNotes bounds how many refused records of one kind Status lists individually,
// because an attacker can fill the store with them.
const maxVerdictNotes = 20

// noteVerdict adds notes for Status about the records that this host does not accept.
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

// believed reports whether this host accepts the tunnel address in a host's record.
func (a *Agent) believed(id string) bool {
	a.judged.mu.Lock()
	defer a.judged.mu.Unlock()
	p := a.judged.verdict.Peers[id]
	return p.VTEP.IsValid() && !p.Elsewhere
}

// subnets lists the subnets on this host's interfaces.
func (a *Agent) subnets() []verdict.Subnet {
	up := a.uplinksNow()
	var list []verdict.Subnet
	for _, s := range up.Subnets {
		list = append(list, verdict.Subnet{Prefix: s.Prefix, Interface: s.Interface, Uplink: slices.Contains(up.Names, s.Interface)})
	}
	return list
}

// trusted lists the peers to which this host has a tunnel, each with the tunnel address
// in force.
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

// verdictOn returns the verdict on a network record that was just read.
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

// inForce returns a network as this host uses it. While an endpoint here is on the
// network, it returns the values with which the network is programmed. Otherwise it
// returns an error if this host refuses the record.
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

// metadata reports whether a network's containers may reach link-local addresses here.
func (a *Agent) metadata(r network.Record) bool { return r.AllowMetadata && a.Allowed.metadata(r.ID) }

// problemOf returns why this host does not use a network as its record says, or "".
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

// noteMetadata notes the networks in use here that request metadata access without
// permission from this host's settings.
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
