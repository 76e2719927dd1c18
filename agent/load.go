package agent

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/ovs"
)

// adopt takes up the attachments of an earlier life of this agent. The ports
// on the bridge say which they are; nothing of them is touched.
func (a *Agent) adopt(ctx context.Context) error {
	ports, err := a.Switch.Ports(ctx)
	if err != nil {
		return fmt.Errorf("read the ports of an earlier life: %w", err)
	}
	for _, p := range ports {
		if p.Kind != ovs.KindEndpoint {
			continue
		}
		l, err := localOf(p)
		if err != nil {
			a.Logger.Error("a port is left alone", "port", p.Name, "err", err)
			continue
		}
		a.table.put(l)
	}
	return nil
}

// localOf reads an endpoint from the external_ids of its port.
func localOf(p ovs.Port) (local, error) {
	ip, err := netip.ParseAddr(p.IDs[idIP])
	if err != nil {
		return local{}, fmt.Errorf("port %q: address: %w", p.Name, err)
	}
	if err := api.CheckEndpointID(p.IDs[idEndpoint]); err != nil {
		return local{}, fmt.Errorf("port %q: %w", p.Name, err)
	}
	if !ip.Is4() || p.IDs[idMAC] != macOf(ip) || p.IDs[idNetwork] == "" {
		return local{}, fmt.Errorf("port %q: its external_ids name no endpoint", p.Name)
	}
	return local{
		Network: p.IDs[idNetwork], Port: p.Name, OFPort: p.OFPort,
		endpoint: endpoint{
			ID: p.IDs[idEndpoint], ContainerName: p.IDs[idName], IP: ip, MAC: p.IDs[idMAC],
			IfName: p.IDs[idIfName], Source: api.Source(p.IDs[idSource]), Attached: true,
		},
	}, nil
}

// load joins what the store knows of this host's endpoints to what the bridge
// has. It runs once, as soon as the store answers, before anything new is attached.
func (a *Agent) load(ctx context.Context) error {
	entries, err := a.Store.List(ctx, network.EndpointsPrefix)
	if err != nil {
		return fmt.Errorf("read the endpoints of this host: %w", err)
	}
	for _, e := range entries {
		netID, hostID, list, err := decodeEndpoints(e)
		if hostID != a.self.ID {
			continue
		}
		if err != nil {
			return err // it is our own: writing over it would lose addresses
		}
		for _, ep := range list {
			if _, ok := a.table.get(ep.ID); ok {
				continue
			}
			l := local{endpoint: ep, Network: netID}
			// Attached, and no port: the host was restarted, or it died while we
			// were away. What connect attached ends with its interface.
			l.Releasing = ep.Attached && ep.Source == api.SourceConnect
			l.Attached = false
			a.table.put(l)
		}
	}
	if err := a.claim(ctx); err != nil {
		return err
	}
	a.mu.Lock()
	a.loaded = true
	a.mu.Unlock()
	close(a.known)
	return nil
}

// claim makes the addresses of this host's endpoints and the owners in the
// store agree: what was left half done by a crash is given back, and an
// attached endpoint that the store has lost gets its address again.
func (a *Agent) claim(ctx context.Context) error {
	entries, err := a.Store.List(ctx, network.NetworksPrefix)
	if err != nil {
		return fmt.Errorf("read the networks: %w", err)
	}
	for _, e := range entries {
		r, err := network.Decode(e)
		if err != nil {
			continue // the view reports it
		}
		a.view.putNetwork(r)
		allocations, err := a.Addresses.List(ctx, r.Subnet)
		if err != nil {
			return fmt.Errorf("read the addresses of network %q: %w", r.ID, err)
		}
		for _, al := range allocations {
			host, id, _ := strings.Cut(al.Owner, "/")
			l, ok := a.table.get(id)
			if host != a.self.ID || (ok && l.Network == r.ID && l.IP == al.Addr) {
				continue
			}
			if err := a.Addresses.Release(ctx, pool(r), al.Owner); err != nil {
				return fmt.Errorf("give back %s of network %q: %w", al.Addr, r.ID, err)
			}
			a.Logger.Info("an address without an endpoint was given back", "network", r.ID, "ip", al.Addr, "endpoint", id)
		}
		for _, l := range a.table.on(r.ID) {
			if err := a.Addresses.AllocateAddr(ctx, pool(r), l.IP, a.owner(l.ID)); err != nil {
				a.Logger.Error("the address of an endpoint is not its own", "network", r.ID, "endpoint", l.ID, "ip", l.IP, "err", err)
			}
		}
	}
	return nil
}
