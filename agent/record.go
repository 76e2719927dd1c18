package agent

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/agent/stored"
)

// listVersion is the version of the layout of a stored list of endpoints.
const listVersion = 1

// maxEndpoints bounds a stored list of endpoints. What Consul takes for a value, 512
// KiB, holds fewer; an embedded store is this host's own.
const maxEndpoints = 1 << 16

// endpoint is one of a host's endpoints on a network, as the cluster sees it.
type endpoint struct {
	ID            string            `json:"id"`
	ContainerID   string            `json:"container_id,omitempty"` // empty: the ID
	ContainerName string            `json:"container_name,omitempty"`
	IP            netip.Addr        `json:"ip"`
	MAC           string            `json:"mac"`
	IfName        string            `json:"ifname,omitempty"`     // empty: handed over, the caller chose the name
	Ports         []api.PortMapping `json:"ports,omitempty"`      // as asked for
	HostPorts     []uint16          `json:"host_ports,omitempty"` // the host's ports in their order, while attached, where any was chosen
	Source        api.Source        `json:"source"`
	Attached      bool              `json:"attached"` // false: the address is held, nobody is there

	// These need cluster.AllowedAddresses.
	Allowed    []netip.Prefix `json:"allowed,omitempty"`    // what it may have beside IP
	Forwarding bool           `json:"forwarding,omitempty"` // some of that may lie outside of the network's subnet
	Routes     []netip.Prefix `json:"routes,omitempty"`     // what hosts and containers of the network reach by way of it

	Unknown stored.Unknown `json:"-"` // what a later release has written beside
}

// endpointList is the value of a key endpoints/<network>/<host>.
type endpointList struct {
	Version   int        `json:"version"`
	Endpoints []endpoint `json:"endpoints"`

	Unknown stored.Unknown `json:"-"`
}

// encodeEndpoints writes a list with what a later release has written beside it.
func encodeEndpoints(list []endpoint, unknown stored.Unknown) ([]byte, error) {
	slices.SortFunc(list, func(a, b endpoint) int { return strings.Compare(a.ID, b.ID) })
	return stored.Encode(endpointList{Version: listVersion, Endpoints: list, Unknown: unknown})
}

// decodeEndpoints reads one host's list, and says whose it is also when it cannot
// be read. A key that names no list gives neither. The list is another host's:
// what this release does not know of it is forgotten.
func decodeEndpoints(e state.Entry) (networkID, hostID string, list []endpoint, err error) {
	networkID, hostID, err = whoseList(e)
	if err != nil {
		return "", "", nil, err
	}
	l, err := decodeList(e, stored.Read)
	return networkID, hostID, l.Endpoints, err
}

// whoseList says which network and host a list of endpoints is of.
func whoseList(e state.Entry) (networkID, hostID string, err error) {
	networkID, hostID, ok := strings.Cut(strings.TrimPrefix(e.Key, network.EndpointsPrefix), "/")
	if !ok || networkID == "" || hostID == "" || strings.Contains(hostID, "/") {
		return "", "", fmt.Errorf("key %q is not one of a list of endpoints; delete it", e.Key)
	}
	return networkID, hostID, nil
}

// decodeOwn reads a list of this host's, to be written again.
func decodeOwn(e state.Entry) (endpointList, error) { return decodeList(e, stored.Decode) }

func decodeList(e state.Entry, read func([]byte, int, any) error) (endpointList, error) {
	var l endpointList
	err := read(e.Value, listVersion, &l)
	if err == nil {
		err = checkEndpoints(l)
	}
	switch {
	case errors.Is(err, stored.ErrNewer):
		return endpointList{}, fmt.Errorf("endpoints in key %q: %w", e.Key, err)
	case err != nil:
		return endpointList{}, fmt.Errorf("endpoints in key %q cannot be decoded (%w); mend them or delete the key", e.Key, err)
	}
	return l, nil
}

func checkEndpoints(l endpointList) error {
	if len(l.Endpoints) > maxEndpoints {
		return fmt.Errorf("%d endpoints are more than the %d that a host can have on a network", len(l.Endpoints), maxEndpoints)
	}
	ids := make(map[string]bool, len(l.Endpoints))
	for _, ep := range l.Endpoints {
		// A MAC may be any: package ovs sees to it that none is programmed which
		// belongs to something else on the segment.
		mac, err := api.ParseMAC(ep.MAC)
		if err != nil || mac != ep.MAC || !ep.IP.Is4() || ids[ep.ID] {
			return fmt.Errorf("%.80q with address %q and MAC %.20q is no endpoint", ep.ID, ep.IP, ep.MAC)
		}
		if err := errors.Join(api.CheckEndpointID(ep.ID), checkContainer(ep.ContainerID, ep.ContainerName), checkPorts(ep.Ports, ep.HostPorts), checkAllowed(ep.Allowed), checkRoutes(ep.Routes, ep.Allowed)); err != nil {
			return err
		}
		ids[ep.ID] = true
	}
	return nil
}

// checkContainer says whether a container can have this id and name; both may be empty.
func checkContainer(id, name string) error {
	if id != "" {
		if err := api.CheckEndpointID(id); err != nil {
			return err
		}
	}
	return api.CheckContainerName(name)
}

// handedOver says whether the caller of Attach has moved the interface, or is
// about to.
func (e endpoint) handedOver() bool { return e.IfName == "" }

// container is the id of the container that has the endpoint.
func (e endpoint) container() string { return cmp.Or(e.ContainerID, e.ID) }

// macOf is the MAC address of an IPv4 endpoint that asks for none: locally administered, and the
// address behind it, as Docker users know it.
func macOf(ip netip.Addr) string { return macVariant(ip, 0) }

// macVariants is how many addresses macVariant gives.
const macVariants = 64

// macVariant gives others, where somebody chose that of macOf for an endpoint with
// another address: as macOf, they are unicast and locally administered.
func macVariant(ip netip.Addr, n int) string {
	b := ip.As4()
	return fmt.Sprintf("%02x:42:%02x:%02x:%02x:%02x", 0x02|n<<2, b[0], b[1], b[2], b[3])
}
