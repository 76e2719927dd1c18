package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/link"
	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/ovs"
)

// adopt restores the attachments from before a restart from the ports on the bridge. It
// does not modify them.
func (a *Agent) adopt(ctx context.Context) error {
	ports, err := a.Switch.Ports(ctx)
	if err != nil {
		return fmt.Errorf("read the ports of an earlier life: %w", err)
	}
	for _, p := range ports {
		if p.Kind != ovs.KindEndpoint {
			continue
		}
		if l, err := localOf(p); err == nil { // every converge pass reports the others
			a.table.put(l)
		}
	}
	a.remember(ports)
	return nil
}

// localOf decodes an endpoint from the external_ids of its port.
func localOf(p ovs.Port) (local, error) {
	id := p.IDs[idEndpoint]
	ip, err := netip.ParseAddr(p.IDs[idIP])
	switch {
	case err != nil || !ip.Is4() || api.CheckNetworkName(p.IDs[idNetwork]) != nil || checkContainer(p.IDs[idContainer], p.IDs[idName]) != nil:
		return local{}, fmt.Errorf("port %q: its external_ids name no endpoint", p.Name)
	case api.CheckEndpointID(id) != nil || p.Name != link.HostName(id):
		return local{}, fmt.Errorf("port %q: it is not the port of endpoint %.80q, which its external_ids name", p.Name, id)
	}
	mac, err := api.ParseMAC(p.IDs[idMAC])
	if err != nil || mac != p.IDs[idMAC] {
		return local{}, fmt.Errorf("port %q: its external_ids name no endpoint", p.Name)
	}
	ports, err := decodePorts[[]api.PortMapping](p.IDs[idPorts])
	hostPorts, hostErr := decodePorts[[]uint16](p.IDs[idHostPorts])
	if err = errors.Join(err, hostErr, checkPorts(ports, hostPorts)); err != nil {
		return local{}, fmt.Errorf("port %q: published ports in its external_ids: %w", p.Name, err)
	}
	allowed, err := api.ParseAllowed(strings.Fields(p.IDs[idAllowed]))
	if err != nil {
		return local{}, fmt.Errorf("port %q: allowed addresses in its external_ids: %w", p.Name, err)
	}
	routes, err := api.ParseAllowed(strings.Fields(p.IDs[idRoutes]))
	if err = errors.Join(err, checkRoutes(routes, allowed)); err != nil {
		return local{}, fmt.Errorf("port %q: routes in its external_ids: %w", p.Name, err)
	}
	turn, err := turnOf(p)
	if err != nil {
		return local{}, err
	}
	return local{
		Turn: turn, Network: p.IDs[idNetwork], Port: p.Name, OFPort: max(p.OFPort, 0), NetNS: p.IDs[idNetNS],
		endpoint: endpoint{
			ID: id, ContainerID: p.IDs[idContainer], ContainerName: p.IDs[idName], IP: ip, MAC: mac,
			IfName: p.IDs[idIfName], Ports: ports, HostPorts: hostPorts, Source: api.Source(p.IDs[idSource]), Attached: true,
			Allowed: allowed, Forwarding: p.IDs[idForwards] == "true", Routes: routes,
		},
	}, nil
}

// maxTurn bounds the turn that a port may have in its external_ids.
const maxTurn = 1 << 20

func turnOf(p ovs.Port) (int, error) {
	text, said := p.IDs[idTurn]
	if !said {
		return 0, nil
	}
	turn, err := strconv.Atoi(text)
	if err != nil || turn < 1 || turn > maxTurn || strconv.Itoa(turn) != text {
		return 0, fmt.Errorf("port %q: %.20q in its external_ids is no turn", p.Name, text)
	}
	return turn, nil
}

// recordOfGateway decodes a network from the external_ids of its gateway's port.
func recordOfGateway(p ovs.Port) (network.Record, bool) {
	subnet, err := api.ParseSubnet(p.IDs[idSubnet])
	gateway, gwErr := netip.ParseAddr(p.IDs[idGateway])
	vni, vniErr := strconv.ParseUint(p.IDs[idVNI], 10, 24) // RFC 7348: 24 bits
	if errors.Join(err, gwErr, vniErr) != nil || !subnet.Contains(gateway) || vni == 0 || p.Name != link.GatewayName(p.IDs[idNetwork]) {
		return network.Record{}, false
	}
	return network.Record{
		ID: p.IDs[idNetwork], Subnet: subnet, Gateway: gateway, VLAN: p.VLAN, VNI: uint32(vni),
		AllowMetadata: p.IDs[idMetadata] == "true",
	}, true
}

// load merges the endpoints in the store with those on the bridge. It runs as soon as the
// store answers and before anything new is attached. Until it succeeds, the agent deletes
// nothing and changes no flow.
func (a *Agent) load(ctx context.Context, ports []ovs.Port) error {
	if err := a.admitted(ctx); err != nil {
		return err
	}
	if err := a.loadLists(ctx); err != nil {
		return err
	}
	if err := a.adoptNetworks(ctx, ports); err != nil {
		return err
	}
	if err := a.claim(ctx); err != nil {
		return err
	}
	a.convergeClaims() // before others can claim the same ports
	a.mu.Lock()
	a.loaded = true
	a.mu.Unlock()
	a.claimed = nil
	close(a.known)
	return nil
}

// loadLists adds to the table the endpoints that only the store has. It leaves unreadable
// lists alone and marks their networks as blocked. A later pass reads them again.
func (a *Agent) loadLists(ctx context.Context) error {
	entries, err := a.Store.List(ctx, network.EndpointsPrefix)
	if err != nil {
		return fmt.Errorf("read the endpoints of this host: %w", err)
	}
	blocked := map[string]bool{}
	for _, e := range entries {
		netID, hostID, err := whoseList(e)
		if err != nil || hostID != a.id {
			continue
		}
		list, err := a.readOwn(e)
		if err != nil {
			blocked[netID] = true
			continue // the view reports it
		}
		eps, _ := bound(list.Endpoints)
		for _, ep := range eps {
			err := a.locked(ctx, link.HostName(ep.ID), func(context.Context) error { return a.takeUp(ep, netID) })
			if err != nil {
				return err
			}
		}
	}
	a.mu.Lock()
	a.blocked = blocked
	a.mu.Unlock()
	return nil
}

// takeUp adds an endpoint from the store to the table. If the endpoint is marked as
// attached but has no port, either the host was restarted or the endpoint ended while the
// agent was down. Endpoints that end with their interface are then marked as Releasing.
// If the interface still exists, only the switch has lost the port. An endpoint that only
// holds an address stays, unless its owner cannot come back for it.
func (a *Agent) takeUp(ep endpoint, netID string) error {
	if l, ok := a.table.get(ep.ID); ok {
		if l.Network == netID && l.IP == ep.IP {
			l.Unknown = ep.Unknown // the port's external_ids do not contain it
			a.table.put(l)
		}
		return nil
	}
	l := local{endpoint: ep, Network: netID}
	if ep.Attached {
		s, err := a.Links.Inspect(link.HostName(ep.ID))
		if err != nil {
			return err
		}
		if l.Attached = s.Exists && s.PeerMoved; l.Attached {
			l.Port = link.HostName(ep.ID)
		}
		if !l.Attached {
			l.HostPorts = nil
		}
		l.Releasing = !l.Attached && endsWithInterface(ep.Source)
	} else if ep.Source == api.SourceConnect || ep.Source == api.SourceLegacy {
		// Both attach in the call that reserves, so nobody comes for the address any more.
		s, err := a.Links.Inspect(link.HostName(ep.ID))
		if err != nil {
			return err
		}
		l.Releasing = !s.Exists
	}
	a.table.put(l)
	return nil
}

// adoptNetworks registers the endpoints from before the restart as users of their
// networks, so that all their flows are known before the first one changes. The port of a
// network's gateway shows the values with which the network is programmed. They stay in
// force even if the record in the store has changed.
func (a *Agent) adoptNetworks(ctx context.Context, ports []ovs.Port) error {
	gateways := map[string]ovs.Port{}
	for _, p := range ports {
		if p.Kind == ovs.KindGateway {
			gateways[p.IDs[idNetwork]] = p
		}
	}
	missing := map[string]error{} // networks that are not in the store; each is requested once
	for _, l := range a.table.all() {
		if !l.Attached {
			continue
		}
		var stored network.Record
		err := missing[l.Network]
		if err == nil {
			stored, err = a.recordOf(ctx, l.Network)
		}
		if away(err) {
			return err
		}
		missing[l.Network] = err
		r, ok := recordOfGateway(gateways[l.Network])
		if ok = ok && r.Subnet.Contains(l.IP); ok && err == nil {
			r.Dynamic, r.AllowMetadata, r.ByDocker, r.Deleting, r.Version = stored.Dynamic, stored.AllowMetadata, stored.ByDocker, stored.Deleting, stored.Version
		}
		if !ok {
			if err == nil {
				r, err = a.inForce(stored)
			}
			if err != nil || !r.Subnet.Contains(l.IP) {
				continue // convergeGateways reports it
			}
		}
		if a.segments.enter(r, l.ID) == 0 && gateways[r.ID].OFPort > 0 {
			a.segments.setPort(r.ID, gateways[r.ID].OFPort)
		}
	}
	return nil
}
