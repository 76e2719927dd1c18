package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/link"
	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/ovs"
)

// routes remembers the endpoint through which each prefix is reached, so that a later
// claim by another endpoint does not take it over.
type routes struct {
	mu      sync.Mutex
	known   map[netip.Prefix]routeVia
	moved   map[netip.Prefix]routeVia // endpoints that had a prefix before they disappeared a moment ago
	settled map[string]bool           // the networks that known covers
	kept    map[string]bool           // the networks whose gateway has kept its routes because known did not cover them
}

type routeVia struct {
	network string
	via     netip.Addr
}

// checkRoutes returns an error unless each route lies within a prefix that the endpoint
// is allowed.
func checkRoutes(list, allowed []netip.Prefix) error {
	if len(list) > api.MaxAllowed {
		return fmt.Errorf("%d routes are more than the %d that can lead to an endpoint", len(list), api.MaxAllowed)
	}
	for i, p := range list {
		within := func(a netip.Prefix) bool { return a.Bits() <= p.Bits() && a.Contains(p.Addr()) }
		if api.CheckAllowed(p) != nil || slices.Contains(list[:i], p) || !slices.ContainsFunc(allowed, within) {
			return fmt.Errorf("route %s does not lead to an endpoint that may send from there", p)
		}
	}
	return nil
}

// claimedRoute is a route that an attached endpoint claims.
type claimedRoute struct {
	prefix netip.Prefix
	routeVia
	missed bool // the endpoint disappeared from its host's list a moment ago
	barred bool // the switch does not let the endpoint send from the prefix
}

// settleRoutes returns the routes in force by network, and a note about each other one. A
// route in force stays while it is claimed. Among the others, the endpoint with the lower
// address wins. Endpoints that disappeared a moment ago come last, but take a route back
// when they return in time: somebody else may have emptied their host's list. Overlapping
// routes are never both in force, because the host has a single routing table.
func (a *Agent) settleRoutes(claims []claimedRoute, outside func() outside) (map[string][]ovs.Route, map[string]string) {
	a.routes.mu.Lock()
	defer a.routes.mu.Unlock()
	was := func(c claimedRoute) int {
		switch {
		case c.missed:
			return 3
		case a.routes.moved[c.prefix] == c.routeVia:
			return 0
		case a.routes.known[c.prefix] == c.routeVia:
			return 1
		}
		return 2
	}
	slices.SortFunc(claims, func(x, y claimedRoute) int {
		return cmp.Or(cmp.Compare(was(x), was(y)), x.via.Compare(y.via), strings.Compare(x.network, y.network),
			x.prefix.Addr().Compare(y.prefix.Addr()), cmp.Compare(x.prefix.Bits(), y.prefix.Bits()))
	})
	known, moved, all, notes := map[netip.Prefix]routeVia{}, map[netip.Prefix]routeVia{}, map[string][]ovs.Route{}, map[string]string{}
	for _, c := range claims {
		if c.missed && (a.routes.known[c.prefix] == c.routeVia || a.routes.moved[c.prefix] == c.routeVia) {
			moved[c.prefix] = c.routeVia
		}
		if known[c.prefix] == c.routeVia {
			continue // it is back
		}
		why := a.unroutable(c.prefix, outside)
		if why == "" && c.barred {
			why = "is not within what the switch lets that endpoint send from"
		}
		for p, other := range known {
			if why == "" && p.Overlaps(c.prefix) {
				why = fmt.Sprintf("overlaps the route %s via %s on network %q", p, other.via, other.network)
			}
		}
		if why != "" && c.missed {
			continue // its host no longer claims it
		}
		if why != "" {
			notes[noteRoute+c.network+"/"+c.prefix.String()+"/"+c.via.String()] = fmt.Sprintf("network %q: the route %s via %s is not used on this host: it %s", c.network, c.prefix, c.via, why)
			continue
		}
		known[c.prefix] = c.routeVia
		all[c.network] = append(all[c.network], ovs.Route{Prefix: c.prefix, Via: c.via})
	}
	if !maps.Equal(known, a.routes.known) {
		signal(a.kick) // converge sets the kernel's routes with the gateways
	}
	a.routes.known, a.routes.moved = known, moved
	return all, notes
}

// unroutable returns why this host does not route a prefix into a network, or "" if it
// can. The store alone must not decide that: otherwise a host that claims a prefix would
// attract the traffic that this host and its containers now send by the default route.
func (a *Agent) unroutable(p netip.Prefix, outside func() outside) string {
	within := func(q netip.Prefix) bool { return q.Bits() <= p.Bits() && q.Contains(p.Addr()) }
	if !slices.ContainsFunc(a.Allowed.Routes, within) {
		return "is not allowed by the settings of this host: add it to allow_routes in section [network] of /etc/socketplane/socketplane.toml and restart the agent"
	}
	for _, r := range a.host().Routes {
		if r.Overlaps(p) {
			return fmt.Sprintf("overlaps a route of this host to %s", r)
		}
	}
	return barredOutside(p, outside())
}

// routesNow returns the routes in force for the networks of the segments, which have
// settled. An endpoint of routing counts if its segment has it, and only with prefixes
// that the switch lets it send from, so that the kernel has no route that the switch does
// not have.
func (a *Agent) routesNow(f ovs.Forwarding, used []network.Record, routing [][]claim, outside func() outside) map[string][]ovs.Route {
	var claims []claimedRoute
	for i, seg := range f.Segments {
		for _, c := range routing[i] {
			allowed, ok := settledAs(seg, c)
			for _, p := range c.endpoint.Routes {
				within := func(q netip.Prefix) bool {
					return q.Bits() <= p.Bits() && q.Contains(p.Addr()) && !seg.Subnet.Overlaps(q) && !leadsToHost(f, q)
				}
				if ok && !seg.Subnet.Overlaps(p) {
					claims = append(claims, claimedRoute{
						prefix: p, routeVia: routeVia{used[i].ID, c.endpoint.IP}, missed: c.missed, barred: !slices.ContainsFunc(allowed, within),
					})
				}
			}
		}
	}
	all, notes := a.settleRoutes(claims, outside)
	var keep []string
	for about, sentence := range notes {
		if len(keep) == maxVerdictNotes {
			break
		}
		a.note(about, sentence)
		keep = append(keep, about)
	}
	a.clearNotes(noteRoute, keep...)
	return all
}

// cover remembers for which networks the routes are settled. again reports that the
// gateway of one of them has kept its routes until now, and may have too many.
func (r *routes) cover(networks map[string]bool) (again bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.settled = networks
	for id := range r.kept {
		if networks[id] {
			again = true
			delete(r.kept, id)
		}
	}
	return again
}

// covered reports whether the routes of a network are settled. They are not before the
// first run of forwardingState that has the network, as after a restart of the agent.
func (r *routes) covered(networkID string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.settled[networkID]
}

// expect has cover report the network, unless its routes are settled already.
func (r *routes) expect(networkID string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.settled[networkID] {
		return
	}
	if r.kept == nil {
		r.kept = map[string]bool{}
	}
	r.kept[networkID] = true
}

// settledAs returns what an endpoint is allowed on a settled segment, and false if the
// segment does not have the endpoint.
func settledAs(seg ovs.Segment, c claim) (allowed []netip.Prefix, ok bool) {
	if c.host == thisHost {
		i := slices.IndexFunc(seg.Local, func(l ovs.Local) bool { return l.OFPort == c.ofport && l.IP == c.endpoint.IP })
		if i < 0 {
			return nil, false
		}
		return seg.Local[i].Allowed, true
	}
	i, ok := slices.BinarySearchFunc(seg.Remote, c.endpoint.IP, func(r ovs.Remote, ip netip.Addr) int { return r.IP.Compare(ip) })
	if !ok || seg.Remote[i].OFPort != c.ofport || seg.Remote[i].MAC != c.endpoint.MAC {
		return nil, false
	}
	return seg.Remote[i].Allowed, true
}

// leadsToHost reports whether a prefix contains the tunnel address of a host. Package ovs
// does not let an endpoint send from such a prefix.
func leadsToHost(f ovs.Forwarding, p netip.Prefix) bool {
	return p.Contains(f.Self) || slices.ContainsFunc(f.Peers, func(peer ovs.Peer) bool { return p.Contains(peer.VTEP) })
}

// kernelRoutes returns the routes of a network that belong in this host's kernel.
func (a *Agent) kernelRoutes(networkID string) []link.Route {
	a.routes.mu.Lock()
	defer a.routes.mu.Unlock()
	var list []link.Route
	for p, r := range a.routes.known {
		if r.network == networkID {
			list = append(list, link.Route{Prefix: p, Via: r.via})
		}
	}
	slices.SortFunc(list, func(x, y link.Route) int { return x.Prefix.Addr().Compare(y.Prefix.Addr()) })
	return list
}

// SetRoutes implements api.Service.
func (a *Agent) SetRoutes(ctx context.Context, id string, list []string) (api.Endpoint, error) {
	if err := api.CheckEndpointID(id); err != nil {
		return api.Endpoint{}, err
	}
	want, err := api.ParseAllowed(list)
	if err != nil {
		return api.Endpoint{}, err
	}
	if err := a.awaitLoaded(ctx); err != nil {
		return api.Endpoint{}, err
	}
	unlock, err := a.lockID(ctx, id)
	if err != nil {
		return api.Endpoint{}, err
	}
	defer unlock()
	l, ok := a.table.get(id)
	if !ok || l.Releasing {
		return api.Endpoint{}, api.Errorf(api.CodeNotFound, "endpoint %q is not there; see: socketplane info", id)
	}
	r := a.recordHere(l.Network)
	if err := a.mayRoute(r, l, want); err != nil {
		return api.Endpoint{}, err
	}
	before := l.Routes
	l.Routes = want
	a.table.put(l)
	err = a.applyRoutes(ctx, l)
	if err != nil {
		return api.Endpoint{}, translate(undoStack{func(ctx context.Context) error { return a.takeBackRoutes(ctx, id, before) }}.run(ctx, err))
	}
	a.Logger.Info("routes changed", "endpoint", l.ID, "container", l.ContainerName, "network", l.Network, "routes", api.AllowedText(want))
	return a.shown(l, r), nil
}

// applyRoutes sets an endpoint's routes in the store, the switch and the kernel.
func (a *Agent) applyRoutes(ctx context.Context, l local) error {
	if err := a.publish(ctx, l.Network); err != nil {
		return err
	}
	if !l.Attached {
		return nil
	}
	// After a restart, the agent reads the routes from the port.
	if err := errors.Join(a.mendPort(ctx, l.ID), a.forwarding.Do(ctx)); err != nil {
		return err
	}
	return a.mendGateway(ctx, l.Network)
}

// takeBackRoutes undoes a change of an endpoint's routes. It changes nothing else of the
// endpoint, which has meanwhile been corrected perhaps. The converge loop restores the
// switch and the kernel.
func (a *Agent) takeBackRoutes(ctx context.Context, id string, before []netip.Prefix) error {
	l, ok := a.table.get(id)
	if !ok {
		return nil
	}
	l.Routes = before
	a.table.put(l)
	signal(a.kick)
	return a.publish(ctx, l.Network)
}

// mayRoute refuses routes that cannot lead to the endpoint, as far as this host knows.
func (a *Agent) mayRoute(r network.Record, l local, want []netip.Prefix) error {
	if err := a.checkRouteBounds(l.Network, l, want); err != nil {
		return err
	}
	outside := sync.OnceValue(a.outside)
	for _, p := range want {
		if slices.Contains(l.Routes, p) {
			continue
		}
		within := func(q netip.Prefix) bool { return q.Bits() <= p.Bits() && q.Contains(p.Addr()) }
		if !l.Forwarding || !slices.ContainsFunc(l.Allowed, within) {
			return api.Errorf(api.CodeConflict, "%q may not send from %s, so no route can lead there; run or connect it with --forwarding --allow-address %s",
				cmp.Or(l.ContainerName, l.ID), p, api.ShowAllowed(p))
		}
		why := a.unroutable(p, outside)
		if r.Subnet.Overlaps(p) {
			why = fmt.Sprintf("lies in the network's own subnet %s", r.Subnet)
		}
		if why != "" {
			return api.Errorf(api.CodeConflict, "network %q: route %s %s", r.ID, p, why)
		}
		if who, other, ok := a.routed(p, l.ID); ok {
			return api.Errorf(api.CodeConflict, "network %q: route %s overlaps the route %s via %s; remove that first", r.ID, p, other, who)
		}
	}
	return nil
}

// routed returns the endpoint with a route that overlaps p, and that route. It ignores
// this host's endpoint but.
func (a *Agent) routed(p netip.Prefix, but string) (who string, route netip.Prefix, ok bool) {
	overlaps := func(ep endpoint) bool {
		i := slices.IndexFunc(ep.Routes, p.Overlaps)
		if i >= 0 {
			route = ep.Routes[i]
		}
		return i >= 0
	}
	for _, l := range a.table.all() {
		if l.ID != but && !l.Releasing && overlaps(l.endpoint) {
			return fmt.Sprintf("%q on this host", cmp.Or(l.ContainerName, l.ID)), route, true
		}
	}
	for _, id := range a.view.populated() {
		for host, list := range a.view.remotes(id) {
			for _, ep := range list {
				if overlaps(ep) {
					return fmt.Sprintf("%q on host %q", cmp.Or(ep.ContainerName, ep.ID), a.hostName(host)), route, true
				}
			}
		}
	}
	return "", netip.Prefix{}, false
}
