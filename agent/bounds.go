package agent

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/cluster"
	"github.com/socketplane/socketplane/agent/network"
)

// Bounds on the endpoints of one host on one network together. Every host on the network
// has flows and kernel routes for these, so one host's list must not cost the others much.
const (
	maxHostAllowed = 256 // allowed addresses
	maxHostRoutes  = 64  // routes
)

// excess counts what a list of endpoints has beyond the bounds.
type excess struct{ allowed, routes int }

// bound returns a list without the allowed addresses and routes beyond the bounds. The
// endpoints with the lower ids keep theirs, whatever the order of the list. A route also
// goes if the allowed address that contains it does.
func bound(list []endpoint) ([]endpoint, excess) {
	var over excess
	allowed, routes := 0, 0
	for _, ep := range list {
		allowed, routes = allowed+len(ep.Allowed), routes+len(ep.Routes)
	}
	if allowed <= maxHostAllowed && routes <= maxHostRoutes {
		return list, over
	}
	list = slices.SortedFunc(slices.Values(list), func(x, y endpoint) int { return strings.Compare(x.ID, y.ID) })
	allowed, routes = maxHostAllowed, maxHostRoutes // what is left of them
	for i := range list {
		ep := &list[i]
		all := len(ep.Routes)
		if n := min(allowed, len(ep.Allowed)); n < len(ep.Allowed) {
			over.allowed += len(ep.Allowed) - n
			ep.Allowed = ep.Allowed[:n:n]
			ep.Routes = slices.DeleteFunc(slices.Clone(ep.Routes), func(p netip.Prefix) bool {
				return !slices.ContainsFunc(ep.Allowed, func(q netip.Prefix) bool { return q.Bits() <= p.Bits() && q.Contains(p.Addr()) })
			})
		}
		if n := min(routes, len(ep.Routes)); n < len(ep.Routes) {
			ep.Routes = ep.Routes[:n:n]
		}
		over.routes += all - len(ep.Routes)
		allowed, routes = allowed-len(ep.Allowed), routes-len(ep.Routes)
	}
	return list, over
}

// beyond lists the peers whose lists have more than the bounds, for Status.
func (v *view) beyond() (all []string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for networkID, hosts := range v.endpoints {
		for hostID, l := range hosts {
			if l.over == (excess{}) {
				continue
			}
			name := hostID
			if i := slices.IndexFunc(v.hosts, func(h cluster.Host) bool { return h.ID == hostID }); i >= 0 {
				name = v.hosts[i].Name
			}
			all = append(all, fmt.Sprintf("network %q: the endpoints of host %q have more than %d allowed addresses or %d routes together; %d allowed addresses and %d routes are not used on this host; remove some there",
				networkID, name, maxHostAllowed, maxHostRoutes, l.over.allowed, l.over.routes))
		}
	}
	slices.Sort(all)
	return all[:min(len(all), maxVerdictNotes)]
}

// checkBounds refuses an endpoint whose allowed addresses the other hosts would not use,
// because this host has too many on the network.
func (a *Agent) checkBounds(r network.Record, w want) error {
	if len(w.allowed) == 0 {
		return nil
	}
	n := len(w.allowed)
	for _, l := range a.table.on(r.ID) {
		if l.ID != w.id && !l.Releasing {
			n += len(l.Allowed)
		}
	}
	if n > maxHostAllowed {
		return api.Errorf(api.CodeExhausted, "network %q: the endpoints of this host would be allowed %d addresses beside their own, more than %d together; allow a prefix instead, or run %q on another host",
			r.ID, n, maxHostAllowed, cmp.Or(w.name, w.id))
	}
	return nil
}

// checkRouteBounds refuses routes that the other hosts would not use, because too many
// lead to this host on the network.
func (a *Agent) checkRouteBounds(networkID string, l local, want []netip.Prefix) error {
	if len(want) <= len(l.Routes) { // taking routes back is always possible
		return nil
	}
	n := len(want)
	for _, other := range a.table.on(networkID) {
		if other.ID != l.ID && !other.Releasing {
			n += len(other.Routes)
		}
	}
	if n > maxHostRoutes {
		return api.Errorf(api.CodeExhausted, "network %q: %d routes would lead to endpoints of this host, more than %d together; use shorter prefixes, or an endpoint on another host",
			networkID, n, maxHostRoutes)
	}
	return nil
}
