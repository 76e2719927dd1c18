package agent

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/network"
)

// AllEndpoints implements api.Service. It answers from the watched state. So it costs the
// store nothing and works while the store is unreachable.
func (a *Agent) AllEndpoints(ctx context.Context) ([]api.Endpoint, error) {
	list, err := a.Endpoints(ctx)
	if err != nil {
		return nil, err
	}
	own := a.hostName(a.id)
	for i := range list {
		list[i].Host, list[i].Port, list[i].Peer, list[i].NetNS = own, "", "", ""
	}
	mtu := a.view.mtu(a.host())
	for _, id := range a.view.populated() {
		r := a.recordHere(id)
		for host, endpoints := range a.view.remotes(id) {
			name := a.hostName(host)
			for _, e := range endpoints {
				list = append(list, remoteEndpoint(e, id, r, name, mtu))
			}
		}
	}
	slices.SortFunc(list, func(a, b api.Endpoint) int {
		return cmp.Or(strings.Compare(a.ContainerID, b.ContainerID), strings.Compare(a.ID, b.ID), strings.Compare(a.Host, b.Host))
	})
	return list, nil
}

// remoteEndpoint converts another host's endpoint to its API form.
func remoteEndpoint(e endpoint, networkID string, r network.Record, host string, mtu int) api.Endpoint {
	return api.Endpoint{
		ID: e.ID, ContainerID: e.container(), ContainerName: e.ContainerName, Network: networkID,
		IP: e.IP, MAC: e.MAC, Gateway: r.Gateway, PrefixLen: max(r.Subnet.Bits(), 0), MTU: mtu,
		IfName: e.IfName, Ports: e.published(), Host: host, Source: e.Source, Attached: e.Attached,
		AllowAddresses: e.Allowed, Forwarding: e.Forwarding, Routes: e.Routes,
	}
}

// populated lists the networks on which other hosts have endpoints.
func (v *view) populated() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	var list []string
	for id := range v.endpoints {
		list = append(list, id)
	}
	return list
}
