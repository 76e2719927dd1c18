package agent

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/ipam"
)

// want is the part of a request that Reserve and Attach share.
type want struct {
	id, container, name, network, ip, mac, ifname string
	ports                                         []api.PortMapping
	source                                        api.Source
	allow                                         []string
	forwarding                                    bool

	allowed []netip.Prefix // the parsed form of allow, set by check
}

func (w *want) check() error {
	if err := api.CheckEndpointID(w.id); err != nil {
		return err
	}
	if err := checkContainer(w.container, w.name); err != nil {
		return err
	}
	if w.container == w.id {
		w.container = ""
	}
	if err := api.CheckPorts(w.ports); err != nil {
		return err
	}
	var err error
	if w.allowed, err = api.ParseAllowed(w.allow); err != nil {
		return err
	}
	if w.forwarding && len(w.allowed) == 0 {
		return api.Errorf(api.CodeInvalid, "forwarding needs the prefixes from which the container may send for others; name them with --allow-address")
	}
	if w.mac != "" {
		mac, err := api.ParseMAC(w.mac)
		if err != nil {
			return err
		}
		w.mac = mac
	}
	if w.network != "" {
		if err := api.CheckNetworkRef(w.network); err != nil {
			return err
		}
	}
	if w.ip != "" {
		if _, err := api.ParseIP(w.ip); err != nil {
			return err
		}
	}
	if _, known := who[w.source]; !known && w.source != "" {
		return api.Errorf(api.CodeInvalid, "source %.40q is unknown; it is one of docker, driver, cni, legacy, connect", w.source)
	}
	return api.CheckIfName(w.ifname)
}

// Reserve implements api.Service.
func (a *Agent) Reserve(ctx context.Context, req api.ReserveRequest) (api.Endpoint, error) {
	w := want{
		id: req.ID, container: req.ContainerID, name: req.ContainerName, network: req.Network, ip: req.IP, mac: req.MAC,
		ifname: defaultIfName, ports: req.Ports, source: req.Source, allow: req.AllowAddresses, forwarding: req.Forwarding,
	}
	if w.network == "" {
		w.network = api.DefaultNetwork
	}
	if err := w.check(); err != nil {
		return api.Endpoint{}, err
	}
	known := a.checkLoaded()
	if w.source == api.SourceDriver { // Docker already has an address and does not call again
		known = a.awaitLoaded(ctx)
	}
	if known != nil {
		return api.Endpoint{}, known
	}
	unlock, err := a.lockID(ctx, w.id)
	if err != nil {
		return api.Endpoint{}, err
	}
	defer unlock()

	l, r, undo, err := a.reserve(ctx, w)
	if err != nil {
		return api.Endpoint{}, translate(err)
	}
	if err := a.publish(ctx, l.Network); err != nil {
		return api.Endpoint{}, translate(a.takeBack(ctx, undo, err))
	}
	if !l.Attached {
		l.since = time.Now() // the attach follows soon
		a.table.put(l)
	}
	a.joinSoon(r, l.ID)
	return a.shown(l, r), nil
}

// reserve finds the endpoint, or creates it with an address. It does not publish it. undo
// reverts what this call created, and is empty if the endpoint existed before. The caller
// holds the endpoint's lock.
func (a *Agent) reserve(ctx context.Context, w want) (l local, r network.Record, undo undoStack, err error) {
	old, ok := a.table.get(w.id)
	if ok && !old.Releasing {
		if err := same(old, w); err != nil {
			return local{}, r, nil, err
		}
		if old.Evicted {
			return local{}, r, nil, evictedError(old)
		}
		if r, err = a.recordOf(ctx, old.Network); err == nil {
			r, err = a.inForce(r)
		}
		if err == nil && !r.Subnet.Contains(old.IP) {
			err = api.Errorf(api.CodeConflict, "%q has address %s, which is not in the subnet %s that network %q has by now; remove it and create it anew",
				cmp.Or(old.ContainerName, old.ID), old.IP, r.Subnet, r.ID)
		}
		return old, r, nil, err
	}
	if w.network == "" {
		return local{}, r, nil, api.Errorf(api.CodeNotFound,
			"container %q holds no address on this host; create it with: socketplane run", w.id)
	}
	if ok { // it has not been released yet, and may be on another network
		if err := a.release(ctx, old); err != nil {
			return local{}, r, nil, err
		}
	}
	if r, err = a.findNetwork(ctx, w.network); err != nil {
		return local{}, r, nil, err
	}
	if r, err = a.inForce(r); err != nil {
		return local{}, r, nil, err
	}
	if err := a.checkMAC(r, w); err != nil {
		return local{}, r, nil, err
	}
	if err := a.checkShared(r, w); err != nil {
		return local{}, r, nil, err
	}
	if err := a.checkBounds(r, w); err != nil {
		return local{}, r, nil, err
	}
	l = local{Network: r.ID, pool: pool(r), version: r.Version, since: time.Now(), endpoint: endpoint{
		ID: w.id, ContainerID: w.container, ContainerName: w.name, IfName: w.ifname, Ports: w.ports,
		Source: cmp.Or(w.source, api.SourceConnect), Allowed: w.allowed, Forwarding: w.forwarding,
	}}
	if l.IP, err = a.allocate(ctx, r, w); err != nil {
		if away(err) || ctx.Err() != nil {
			// The write may have been applied anyway.
			l.IP, l.Releasing, l.Doubt = netip.Addr{}, true, true
			a.table.put(l)
			signal(a.kick)
		}
		return local{}, r, nil, a.explainAddress(err, r)
	}
	undo.push(func(ctx context.Context) error { return a.unreserve(ctx, w.id) })
	if l, err = a.enterTable(l, r, w); err != nil {
		return local{}, r, nil, a.takeBack(ctx, undo, err)
	}
	return l, r, undo, nil
}

// enterTable puts an endpoint that has an address into the table. It assigns a MAC that
// nothing else on the network has, as far as this host knows. If that fails, the endpoint
// is marked as Releasing.
func (a *Agent) enterTable(l local, r network.Record, w want) (local, error) {
	a.macs.Lock() // of concurrent requests for the same MAC, only the first succeeds
	defer a.macs.Unlock()
	var err error
	if l.MAC = w.mac; w.mac != "" {
		err = a.checkMAC(r, w)
	} else {
		for n := range macVariants {
			w.mac = macVariant(l.IP, n)
			if err = a.checkMAC(r, w); err == nil {
				break
			}
		}
		l.MAC = w.mac
	}
	if err == nil {
		err = a.checkBounds(r, w)
	}
	l.Releasing = err != nil
	a.table.put(l)
	return l, err
}

// unreserve reverts reserve. If the store is away, the endpoint stays marked as
// Releasing, and the converge loop completes the release.
func (a *Agent) unreserve(ctx context.Context, id string) error {
	l, ok := a.table.get(id)
	if !ok {
		return nil
	}
	l.Releasing = true
	a.table.put(l)
	if l.Dirty {
		return nil // the address may not be reassigned yet; the cause was already reported
	}
	if err := a.giveBack(ctx, l); err != nil && !away(err) {
		return err
	}
	return nil
}

func (a *Agent) allocate(ctx context.Context, r network.Record, w want) (netip.Addr, error) {
	if w.ip == "" {
		return a.Addresses.Allocate(ctx, a.poolToChoose(r, w.allowed), a.owner(w.id))
	}
	ip, err := api.ParseIP(w.ip)
	if err != nil {
		return ip, err
	}
	if w.source == api.SourceDriver {
		if h, ok := a.holds.take(r.ID, ip); ok {
			err := a.Addresses.Transfer(ctx, h.pool, ip, h.owner, a.owner(w.id))
			if err == nil {
				return ip, nil
			}
			if !errors.Is(err, ipam.ErrTaken) {
				a.holds.put(h) // the release or expiry of the hold must find it
				return ip, err
			}
		}
	}
	return ip, a.Addresses.AllocateAddr(ctx, pool(r), ip, a.owner(w.id))
}

// Describe implements api.Service.
func (a *Agent) Describe(ctx context.Context, req api.DescribeRequest) (api.Endpoint, error) {
	if err := errors.Join(api.CheckEndpointID(req.ID), checkContainer(req.ContainerID, req.ContainerName)); err != nil {
		return api.Endpoint{}, err
	}
	if err := a.checkLoaded(); err != nil {
		return api.Endpoint{}, err
	}
	unlock, err := a.lockID(ctx, req.ID)
	if err != nil {
		return api.Endpoint{}, err
	}
	defer unlock()
	l, ok := a.table.get(req.ID)
	if !ok || l.Releasing {
		return api.Endpoint{}, api.Errorf(api.CodeNotFound, "endpoint %q is not there; see: socketplane info", req.ID)
	}
	if req.ContainerID == l.ID {
		req.ContainerID = ""
	}
	if l.ContainerID != req.ContainerID || l.ContainerName != req.ContainerName {
		l.ContainerID, l.ContainerName = req.ContainerID, req.ContainerName
		a.table.put(l)
		signal(a.kick) // updates the list in the store and the port on the bridge
	}
	return a.shown(l, a.recordHere(l.Network)), nil
}

// checkMAC refuses a MAC that something else on the network has, as far as this host
// knows. If two hosts assign the same MAC at the same moment, contests.settle lets one of
// them win.
func (a *Agent) checkMAC(r network.Record, w want) error {
	if w.mac == "" {
		return nil
	}
	if w.mac == macOf(r.Gateway) {
		return api.Errorf(api.CodeConflict, "network %q: MAC address %s is the gateway's; choose another or omit it", r.ID, w.mac)
	}
	for _, l := range a.table.on(r.ID) {
		if l.MAC == w.mac && l.ID != w.id && !l.Releasing {
			return api.Errorf(api.CodeConflict, "network %q: MAC address %s is taken by %q on this host; choose another or omit it",
				r.ID, w.mac, cmp.Or(l.ContainerName, l.ID))
		}
	}
	for host, list := range a.view.remotes(r.ID) {
		for _, ep := range list {
			if ep.MAC == w.mac {
				return api.Errorf(api.CodeConflict, "network %q: MAC address %s is taken by %q on host %q; choose another or omit it",
					r.ID, w.mac, cmp.Or(ep.ContainerName, ep.ID), a.hostName(host))
			}
		}
	}
	return nil
}

// who maps the source of an endpoint to a name for users.
var who = map[api.Source]string{
	api.SourceDocker: "`socketplane run`", api.SourceConnect: "`socketplane connect`", api.SourceDriver: "Docker's network driver",
	api.SourceCNI: "the CNI plugin", api.SourceNetavark: "the netavark plugin", api.SourceLegacy: "the API of 2015",
}

// same returns an error if w asks for something else than the existing endpoint has.
func same(l local, w want) error {
	if w.network != "" && w.network != l.Network {
		return api.Errorf(api.CodeConflict, "%q is on network %q already; disconnect it first, or use another id", l.ID, l.Network)
	}
	if w.ip != "" && w.ip != l.IP.String() {
		return api.Errorf(api.CodeConflict, "%q has address %s already; disconnect it first, or use another id", l.ID, l.IP)
	}
	if w.mac != "" && w.mac != l.MAC {
		return api.Errorf(api.CodeConflict, "%q has MAC address %s already; disconnect it first, or use another id", l.ID, l.MAC)
	}
	if len(w.ports) > 0 && !slices.Equal(w.ports, l.Ports) {
		return api.Errorf(api.CodeConflict, "%q publishes other ports already; disconnect it first, or use another id", l.ID)
	}
	if len(w.allowed) > 0 && (!slices.Equal(w.allowed, l.Allowed) || w.forwarding != l.Forwarding) {
		return api.Errorf(api.CodeConflict, "%q is allowed other addresses already; disconnect it first, or use another id", l.ID)
	}
	if w.source != "" && l.Source != "" && w.source != l.Source {
		return api.Errorf(api.CodeConflict, "%q was made by %s; use another id", l.ID, who[l.Source])
	}
	return nil
}

// recordOf returns the network of an existing endpoint, even if the network is being
// deleted or the store has lost it.
func (a *Agent) recordOf(ctx context.Context, id string) (network.Record, error) {
	if r, ok := a.segments.force(id); ok {
		return r, nil
	}
	if r, ok := a.view.record(id); ok {
		return r, nil
	}
	if r, ok := a.segments.record(id); ok {
		return r, nil
	}
	return a.findNetwork(ctx, id)
}

// findNetwork looks a network up in the view. It asks the store before it reports that
// the network does not exist.
func (a *Agent) findNetwork(ctx context.Context, id string) (network.Record, error) {
	if r, ok := a.view.network(id); ok {
		return r, nil
	}
	r, err := a.Catalog.Get(ctx, id)
	if err != nil {
		return network.Record{}, err
	}
	a.view.putNetwork(r)
	return r, nil
}
