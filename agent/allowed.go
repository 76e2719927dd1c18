package agent

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/cluster"
	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/ipam"
	"github.com/socketplane/socketplane/ovs"
)

// checkAllowed returns an error if no endpoint on any network could be allowed these
// addresses. It also bounds the values that the store may contain.
func checkAllowed(list []netip.Prefix) error {
	if len(list) > api.MaxAllowed {
		return fmt.Errorf("%d allowed addresses are more than the %d that an endpoint can have", len(list), api.MaxAllowed)
	}
	for _, p := range list {
		if err := api.CheckAllowed(p); err != nil {
			return err
		}
	}
	return nil
}

// owner is the holder of an address on a network as its own address.
type owner struct {
	ip  netip.Addr
	who string // shown to users
}

// covered returns the first owner whose address the prefix p contains, except the owner
// of the address but. The owners must be sorted by address.
func covered(p netip.Prefix, owners []owner, but netip.Addr) (owner, bool) {
	i, _ := slices.BinarySearchFunc(owners, p.Addr(), func(o owner, ip netip.Addr) int { return o.ip.Compare(ip) })
	for ; i < len(owners) && p.Contains(owners[i].ip); i++ {
		if owners[i].ip != but {
			return owners[i], true
		}
	}
	return owner{}, false
}

// unusable returns why an endpoint with address ip cannot be allowed the prefix p, or ""
// if it can. Inside the subnet of the network, p must not contain an address that has an
// owner. A container that forwards may also send from outside the subnet, but not from
// prefixes where hosts or other networks are.
func unusable(r network.Record, p netip.Prefix, ip netip.Addr, forwarding bool, owners []owner, outside func() outside) string {
	switch {
	case p.Bits() == 32 && p.Addr() == ip:
		return "is its own address"
	case !r.Subnet.Overlaps(p) && forwarding:
		return barredOutside(p, outside())
	case !r.Subnet.Overlaps(p):
		return fmt.Sprintf("is not in the network's subnet %s; a container that routes for others needs --forwarding", r.Subnet)
	case p.Bits() < r.Subnet.Bits():
		return fmt.Sprintf("covers the network's subnet %s", r.Subnet)
	case p.Contains(r.Gateway):
		return fmt.Sprintf("covers the gateway, %s", r.Gateway)
	case p.Contains(r.Subnet.Addr()):
		return fmt.Sprintf("covers the network address, %s", r.Subnet.Addr())
	}
	if last := lastOf(r.Subnet); p.Contains(last) {
		return fmt.Sprintf("covers the broadcast address, %s", last)
	}
	if o, ok := covered(p, owners, ip); ok {
		return fmt.Sprintf("covers %s, which is the own address of %s", o.ip, o.who)
	}
	return ""
}

// outside is what lies outside of the networks' subnets. To collect it costs more than to
// compare a prefix with it.
type outside struct {
	self     cluster.Host
	hosts    []cluster.Host // the others
	networks []network.Record
}

func (a *Agent) outside() outside {
	return outside{self: a.host(), hosts: a.view.reachable(), networks: a.view.stored().Networks}
}

// barredOutside returns why a forwarding container cannot send from a prefix outside the
// subnet of its network, or "" if it can.
func barredOutside(p netip.Prefix, o outside) string {
	for _, addr := range o.self.Addrs {
		if p.Overlaps(addr.Masked()) {
			return fmt.Sprintf("overlaps %s, where this host has an address", addr.Masked())
		}
	}
	for _, h := range o.hosts {
		if p.Contains(h.VTEP) {
			return fmt.Sprintf("covers %s, the address of host %q", h.VTEP, h.Name)
		}
	}
	if p.Contains(o.self.VTEP) {
		return fmt.Sprintf("covers %s, the address of this host", o.self.VTEP)
	}
	for _, other := range o.networks {
		if other.Subnet.Overlaps(p) {
			return fmt.Sprintf("overlaps the subnet %s of network %q", other.Subnet, other.ID)
		}
	}
	return ""
}

// lastOf returns the broadcast address of a subnet.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	for i := range 32 - p.Bits() {
		b[3-i/8] |= 1 << (i % 8)
	}
	return netip.AddrFrom4(b)
}

// owners lists the endpoints with an address on a network, on all hosts, sorted by
// address. It includes endpoints without an interface. It omits this host's endpoint with
// the id but.
func (a *Agent) owners(networkID, but string) []owner {
	var list []owner
	for _, l := range a.table.on(networkID) {
		if l.ID != but && !l.Releasing && l.IP.IsValid() {
			list = append(list, owner{l.IP, fmt.Sprintf("%q on this host", cmp.Or(l.ContainerName, l.ID))})
		}
	}
	for host, endpoints := range a.view.remotes(networkID) {
		for _, ep := range endpoints {
			list = append(list, owner{ep.IP, fmt.Sprintf("%q on host %q", cmp.Or(ep.ContainerName, ep.ID), a.hostName(host))})
		}
	}
	slices.SortFunc(list, func(x, y owner) int { return x.ip.Compare(y.ip) })
	return list
}

// shared returns the prefixes that endpoints are allowed inside the subnet of a network,
// each with a description of the endpoint. It omits prefixes that no endpoint can use. It
// also omits prefixes that contain an address with an owner, unless the caller asks for
// them with covering: they are not in force, but may come into force. It omits this
// host's endpoint with the id but.
func (a *Agent) shared(r network.Record, but string, covering bool) map[netip.Prefix]string {
	all := map[netip.Prefix]string{}
	var owners []owner
	add := func(ep endpoint, host func() string) {
		for _, p := range inside(r.Subnet, ep.Allowed) {
			if owners == nil && !covering {
				owners = a.owners(r.ID, "")
			}
			if unusable(r, p, ep.IP, ep.Forwarding, owners, nil) == "" { // p is inside
				all[p] = fmt.Sprintf("%q on %s", cmp.Or(ep.ContainerName, ep.ID), host())
			}
		}
	}
	for host, endpoints := range a.view.sharing(r.ID) {
		for _, ep := range endpoints {
			add(ep, func() string { return fmt.Sprintf("host %q", a.hostName(host)) })
		}
	}
	for _, l := range a.table.on(r.ID) {
		if l.ID != but && !l.Releasing {
			add(l.endpoint, func() string { return thisHost })
		}
	}
	return all
}

// inside returns the prefixes that lie within a subnet.
func inside(subnet netip.Prefix, list []netip.Prefix) []netip.Prefix {
	var in []netip.Prefix
	for _, p := range list {
		if p.IsValid() && p.Bits() >= subnet.Bits() && subnet.Contains(p.Addr()) {
			in = append(in, p)
		}
	}
	return in
}

// checkShared refuses allowed addresses that are not usable, and an address that another
// endpoint is allowed, as far as this host knows.
func (a *Agent) checkShared(r network.Record, w want) error {
	if len(w.allowed) > 0 {
		if err := a.allMayShare(); err != nil {
			return err
		}
		own, _ := netip.ParseAddr(w.ip) // the zero Addr if any free address will do
		owners, outside := a.owners(r.ID, w.id), sync.OnceValue(a.outside)
		for _, p := range w.allowed {
			if why := unusable(r, p, own, w.forwarding, owners, outside); why != "" {
				return api.Errorf(api.CodeConflict, "network %q: allowed address %s %s; choose another", r.ID, api.ShowAllowed(p), why)
			}
		}
	}
	if w.ip == "" {
		return nil
	}
	ip, err := api.ParseIP(w.ip)
	if err != nil {
		return err
	}
	for p, who := range a.shared(r, w.id, false) {
		if p.Contains(ip) {
			return api.Errorf(api.CodeConflict, "network %q: address %s is one that %s is allowed to have beside its own (%s); choose another or omit it",
				r.ID, ip, who, api.ShowAllowed(p))
		}
	}
	return nil
}

// allMayShare refuses allowed addresses while a live host does not support them. A host
// with an older release does not forward to them, and the first release cannot even read
// an endpoint list that contains them.
func (a *Agent) allMayShare() error {
	return a.allKnow(cluster.AllowedAddresses, "allowed addresses")
}

// poolToChoose returns the pool for an endpoint that takes the next free address. The
// pool avoids the prefixes that this endpoint (own) and others are allowed. It also avoids
// a prefix that somebody has an address in, so that it can come into force later.
func (a *Agent) poolToChoose(r network.Record, own []netip.Prefix) ipam.Pool {
	p := pool(r)
	p.Avoid = inside(r.Subnet, own)
	for prefix := range a.shared(r, "", true) {
		p.Avoid = append(p.Avoid, prefix)
	}
	return p
}

// judgeAllowed removes from the locals every allowed prefix that is not usable and adds a
// note about it for Status. It returns the subjects of the notes.
func (a *Agent) judgeAllowed(r network.Record, locals []ovs.Local, remotes []ovs.Remote, outside func() outside) (notes []string) {
	if !slices.ContainsFunc(locals, func(l ovs.Local) bool { return len(l.Allowed) > 0 }) {
		return nil
	}
	var owners []owner
	for _, l := range locals {
		owners = append(owners, owner{l.IP, "an endpoint on this host"})
	}
	for _, m := range remotes {
		owners = append(owners, owner{m.IP, "an endpoint on another host"})
	}
	slices.SortFunc(owners, func(x, y owner) int { return x.ip.Compare(y.ip) })
	forwards := map[netip.Addr]bool{}
	for _, l := range a.table.on(r.ID) {
		forwards[l.IP] = l.Forwarding
	}
	for i, l := range locals {
		locals[i].Allowed = slices.DeleteFunc(slices.Clone(l.Allowed), func(p netip.Prefix) bool {
			why := unusable(r, p, l.IP, forwards[l.IP], owners, outside)
			if why != "" {
				about := noteAllowed + r.ID + "/" + l.IP.String() + "/" + p.String()
				a.note(about, fmt.Sprintf("network %q: the endpoint with address %s cannot use %s, which it is allowed: it %s", r.ID, l.IP, api.ShowAllowed(p), why))
				notes = append(notes, about)
			}
			return why != ""
		})
	}
	return notes
}

// Drops implements api.Service. It reads the counters from the switch on every
// call, and costs nothing between calls.
func (a *Agent) Drops(ctx context.Context) (map[string]api.Drops, error) {
	if err := a.checkLoaded(); err != nil {
		return nil, err
	}
	counted, err := a.Switch.Drops(ctx)
	if err != nil {
		return nil, translate(err)
	}
	all := map[string]api.Drops{}
	for _, l := range a.table.all() {
		if !l.Attached || len(counted[l.OFPort]) == 0 {
			continue
		}
		drops := api.Drops{}
		for cause, n := range counted[l.OFPort] {
			drops[string(cause)] = n
		}
		all[l.ID] = drops
	}
	return all, nil
}
