package agent

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/cluster"
	"github.com/socketplane/socketplane/agent/link"
	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/agent/verdict"
	"github.com/socketplane/socketplane/ovs"
)

// Status implements api.Service.
func (a *Agent) Status(context.Context) (api.Status, error) {
	a.mu.Lock()
	ready, problems, tunnels, self := a.ready, slices.Clone(a.problems), a.tunnels, a.self
	for _, about := range slices.Sorted(maps.Keys(a.notes)) {
		problems = append(problems, a.notes[about])
	}
	a.mu.Unlock()
	s := api.Status{
		Version: self.Version, PID: os.Getpid(), Ready: ready, Store: a.Store.String(), Bridge: a.Switch.Bridge(), Uplinks: append([]string{}, a.uplinksNow().Names...),
		Host:     api.Host{ID: self.ID, Name: self.Name, VTEP: self.VTEP.String(), Datapath: self.Datapath},
		Problems: append([]string{}, append(problems, a.view.problems()...)...),
		Peers:    []api.Peer{},
	}
	if !a.Switch.Connected() {
		s.Problems = append([]string{"the database of Open vSwitch cannot be reached; start it: systemctl start openvswitch-switch"}, s.Problems...)
	}
	s.Problems = append(s.Problems, a.contests.problems()...)
	s.Problems = append(s.Problems, a.view.beyond()...)
	s.Overwritten = a.overwritten()
	s.Problems = append(s.Problems, overwrittenNow(s.Overwritten, a.view.now())...)
	paths, narrow := a.knownPaths()
	s.Problems = append(s.Problems, narrow...)
	for _, h := range a.view.peers() {
		p := api.Peer{ID: h.ID, Name: h.Name, VTEP: h.VTEP.String(), State: api.StateSuspect, PathMTU: paths[h.ID].MTU}
		switch {
		case h.Alive:
			p.State = api.StateAlive
		case a.view.isGone(h.ID):
			p.State = api.StateGone
		}
		if tunnels[h.ID] > 0 {
			p.Tunnel = ovs.TunnelName(h.ID)
		}
		s.Peers = append(s.Peers, p)
	}
	return s, nil
}

// Ready reports whether converge has succeeded at least once.
func (a *Agent) Ready() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.ready
}

// CreateNetwork implements api.Service.
func (a *Agent) CreateNetwork(ctx context.Context, req api.CreateNetworkRequest) (api.Network, error) {
	if err := api.CheckNetworkName(req.ID); err != nil {
		return api.Network{}, err
	}
	var subnet netip.Prefix
	if req.Subnet != "" {
		var err error
		if subnet, err = api.ParseSubnet(req.Subnet); err != nil {
			return api.Network{}, err
		}
	}
	var gateway netip.Addr
	if req.Gateway != "" {
		var err error
		if gateway, err = api.ParseIP(req.Gateway); err != nil {
			return api.Network{}, err
		}
	}
	var dynamic netip.Prefix
	if req.Dynamic != "" {
		if req.Subnet == "" {
			return api.Network{}, api.Errorf(api.CodeInvalid, "network %q: a range of dynamic addresses needs a subnet; give both", req.ID)
		}
		var err error
		if dynamic, err = api.ParseRange(req.Dynamic, subnet); err != nil {
			return api.Network{}, err
		}
		if err := a.allKnow(cluster.DynamicRange, "networks with a range of dynamic addresses"); err != nil {
			return api.Network{}, err
		}
	}
	if why := verdict.Range(subnet, a.Allowed.Public); req.Subnet != "" && why != "" {
		return api.Network{}, api.Errorf(api.CodeInvalid, "network %q: subnet %s %s; add it there on every host, and restart the agents, or use a private range", req.ID, subnet, why)
	}
	r, _, err := a.Catalog.Create(ctx, network.Spec{
		Name: req.ID, Subnet: subnet, Gateway: gateway, Dynamic: dynamic, AllowMetadata: req.AllowMetadata, ByDocker: req.ByDocker, Docker: req.Docker, DryRun: req.DryRun,
	})
	if err != nil {
		return api.Network{}, translate(err)
	}
	if req.DryRun {
		return a.shownNetwork(r), nil
	}
	a.view.putNetwork(r)
	signal(a.networks)
	return a.shownNetwork(r), nil
}

// Networks implements api.Service. It reads the store, because the list must include a
// network that another host has just created.
func (a *Agent) Networks(ctx context.Context) ([]api.Network, error) {
	entries, err := a.Store.List(ctx, network.NetworksPrefix)
	if err != nil {
		return nil, translate(err)
	}
	list := []api.Network{}
	for _, e := range entries {
		// Status reports a record that cannot be decoded.
		if r, err := network.Decode(e); err == nil && !r.Deleting {
			list = append(list, a.shownNetwork(r))
		}
	}
	slices.SortFunc(list, func(x, y api.Network) int { return cmp.Compare(x.ID, y.ID) })
	return list, nil
}

// Network implements api.Service.
func (a *Agent) Network(ctx context.Context, id string) (api.Network, error) {
	if err := api.CheckNetworkRef(id); err != nil {
		return api.Network{}, err
	}
	r, err := a.findNetwork(ctx, id)
	if err != nil {
		return api.Network{}, translate(err)
	}
	return a.shownNetwork(r), nil
}

// DeleteNetwork implements api.Service.
func (a *Agent) DeleteNetwork(ctx context.Context, id string) error {
	return a.deleteNetwork(id, func() error { return a.Catalog.Delete(ctx, id) })
}

// DeleteDockersNetwork deletes a network on behalf of a Docker user. It deletes only a
// network that was made through Docker and has this subnet in the store. The view may be
// outdated, and the name may belong to another network by now.
func (a *Agent) DeleteDockersNetwork(ctx context.Context, id string, subnet netip.Prefix) error {
	return a.deleteNetwork(id, func() error { return a.Catalog.DeleteDockers(ctx, id, subnet) })
}

// UsedElsewhere returns an error that names the other hosts with endpoints on a network.
// It returns nil if there are none.
func (a *Agent) UsedElsewhere(ctx context.Context, id string) error {
	return a.inUseByName(a.Catalog.UsedElsewhere(ctx, id))
}

// ReserveSubnet reserves a subnet for a network that Docker is creating. For the zero
// Prefix it chooses a free subnet.
func (a *Agent) ReserveSubnet(ctx context.Context, subnet netip.Prefix) (netip.Prefix, error) {
	if why := verdict.Range(subnet, a.Allowed.Public); subnet.IsValid() && why != "" {
		return netip.Prefix{}, api.Errorf(api.CodeInvalid, "subnet %s %s; add it there on every host, and restart the agents, or use a private range", subnet, why)
	}
	got, err := a.Catalog.Reserve(ctx, subnet)
	return got, translate(err)
}

// DockerSpec returns the options and labels with which a Docker user created a network.
func (a *Agent) DockerSpec(ctx context.Context, id string, subnet netip.Prefix) (api.DockerSpec, error) {
	spec, err := a.Catalog.DockerSpec(ctx, id, subnet)
	return spec, translate(err)
}

// KeepSubnets releases all reserved subnets of this host except the given ones.
func (a *Agent) KeepSubnets(ctx context.Context, subnets []netip.Prefix) error {
	return translate(a.Catalog.Keep(ctx, subnets))
}

func (a *Agent) deleteNetwork(id string, remove func() error) error {
	if err := api.CheckNetworkRef(id); err != nil {
		return err
	}
	if err := remove(); err != nil {
		return a.inUseByName(err)
	}
	if r, ok := a.view.dropNetwork(id); ok {
		a.Addresses.Forget(r.Subnet)
	}
	signal(a.kick)
	signal(a.networks)
	a.Logger.Info("network deleted", "network", id)
	return nil
}

// inUseByName translates an error of the catalog, and replaces the ids of hosts that use
// a network with their names.
func (a *Agent) inUseByName(err error) error {
	if use, ok := errors.AsType[*network.InUseError](err); ok {
		named := *use
		named.Hosts = nil
		for _, host := range use.Hosts {
			named.Hosts = append(named.Hosts, a.hostName(host))
		}
		return translate(&named)
	}
	return translate(err)
}

// Endpoints implements api.Service.
func (a *Agent) Endpoints(context.Context) ([]api.Endpoint, error) {
	if err := a.checkLoaded(); err != nil {
		return nil, err
	}
	list := []api.Endpoint{}
	for _, l := range a.table.all() {
		if !l.Releasing {
			list = append(list, a.shown(l, a.recordHere(l.Network)))
		}
	}
	return list, nil
}

// Endpoint implements api.Service.
func (a *Agent) Endpoint(_ context.Context, ref string) (api.Endpoint, error) {
	if err := a.checkLoaded(); err != nil {
		return api.Endpoint{}, err
	}
	l, err := a.table.find(ref)
	if err != nil {
		return api.Endpoint{}, err
	}
	return a.shown(l, a.recordHere(l.Network)), nil
}

// recordHere returns a network as this host knows it, without asking the store. It
// returns the zero Record if the network is unknown.
func (a *Agent) recordHere(id string) network.Record {
	if r, ok := a.segments.force(id); ok {
		return r
	}
	r, ok := a.view.record(id)
	if !ok {
		r, _ = a.segments.record(id)
	}
	return r
}

// awaitLoaded is checkLoaded, but waits up to loadTimeout first.
func (a *Agent) awaitLoaded(ctx context.Context) error {
	t := time.NewTimer(loadTimeout)
	defer t.Stop()
	select {
	case <-a.known:
		return nil
	case <-t.C:
	case <-ctx.Done():
	}
	return a.checkLoaded()
}

// checkLoaded returns an error until the endpoints from before the restart are loaded
// from the store.
func (a *Agent) checkLoaded() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.loaded {
		return nil
	}
	why := a.Store.String() + " has not answered"
	if a.view.complete() && len(a.problems) > 0 {
		why = a.problems[0]
	}
	return api.Errorf(api.CodeUnavailable,
		"the endpoints of this host are not known yet, since %s; see: socketplane agent status", oneLine(why))
}

func (a *Agent) shownNetwork(r network.Record) api.Network {
	return api.Network{
		ID: r.ID, Subnet: r.Subnet, Gateway: r.Gateway, VLAN: r.VLAN, VNI: r.VNI, MTU: a.view.mtu(a.host()),
		Dynamic: r.Dynamic, AllowMetadata: r.AllowMetadata, ByDocker: r.ByDocker, Problem: a.problemOf(r),
	}
}

func (a *Agent) shown(l local, r network.Record) api.Endpoint {
	self := a.host()
	bits := max(r.Subnet.Bits(), 0) // Bits is -1 if the network is unknown
	e := api.Endpoint{
		ID: l.ID, ContainerID: l.container(), ContainerName: l.ContainerName, Network: l.Network,
		IP: l.IP, MAC: l.MAC, Gateway: r.Gateway, PrefixLen: bits, MTU: a.view.mtu(self),
		Port: l.Port, IfName: l.IfName, Ports: a.led(l), Host: self.Name, Source: l.Source, Attached: l.Attached,
		NetNS: l.NetNS, Problem: a.noteOn(noteMAC + l.ID),
		AllowAddresses: l.Allowed, Forwarding: l.Forwarding, Routes: l.Routes,
	}
	if l.Attached && l.handedOver() {
		e.Peer = link.PeerName(l.ID)
	}
	return e
}

// host returns this host as last read.
func (a *Agent) host() cluster.Host {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.self
}
