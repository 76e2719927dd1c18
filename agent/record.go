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

// listVersion is the layout version of a stored list of endpoints.
const listVersion = 1

// maxEndpoints bounds a stored list of endpoints. Consul limits a value to 512 KiB, which
// holds fewer. An embedded store belongs to this host alone.
const maxEndpoints = 1 << 16

// endpoint is an endpoint of a host on a network, as published to the cluster.
type endpoint struct {
	ID            string            `json:"id"`
	ContainerID   string            `json:"container_id,omitempty"` // empty if it equals ID
	ContainerName string            `json:"container_name,omitempty"`
	IP            netip.Addr        `json:"ip"`
	MAC           string            `json:"mac"`
	IfName        string            `json:"ifname,omitempty"`     // empty after a hand-over: the caller chose the name
	Ports         []api.PortMapping `json:"ports,omitempty"`      // as requested
	HostPorts     []uint16          `json:"host_ports,omitempty"` // in the order of Ports; only while attached, if any was chosen
	Source        api.Source        `json:"source"`
	Attached      bool              `json:"attached"` // false: the endpoint only holds its address

	// These fields need cluster.AllowedAddresses.
	Allowed    []netip.Prefix `json:"allowed,omitempty"`    // additional addresses that it may use
	Forwarding bool           `json:"forwarding,omitempty"` // Allowed may contain addresses outside the network's subnet
	Routes     []netip.Prefix `json:"routes,omitempty"`     // prefixes that the network reaches through this endpoint

	Unknown stored.Unknown `json:"-"` // fields written by a later release
}

// endpointList is the value of a key endpoints/<network>/<host>.
type endpointList struct {
	Version   int        `json:"version"`
	Endpoints []endpoint `json:"endpoints"`

	Unknown stored.Unknown `json:"-"`
}

// encodeEndpoints encodes a list, including the fields that a later release wrote.
func encodeEndpoints(list []endpoint, unknown stored.Unknown) ([]byte, error) {
	slices.SortFunc(list, func(a, b endpoint) int { return strings.Compare(a.ID, b.ID) })
	return stored.Encode(endpointList{Version: listVersion, Endpoints: list, Unknown: unknown})
}

// decodeEndpoints decodes one host's list. It returns the network and the host even if
// the list cannot be decoded, unless the key names no list. It discards fields that this
// release does not know, because only the list's own host writes the list.
func decodeEndpoints(e state.Entry) (networkID, hostID string, list []endpoint, err error) {
	networkID, hostID, err = whoseList(e)
	if err != nil {
		return "", "", nil, err
	}
	l, err := decodeList(e, stored.Read)
	return networkID, hostID, l.Endpoints, err
}

// whoseList returns the network and the host of a list of endpoints.
func whoseList(e state.Entry) (networkID, hostID string, err error) {
	networkID, hostID, ok := strings.Cut(strings.TrimPrefix(e.Key, network.EndpointsPrefix), "/")
	if !ok || networkID == "" || hostID == "" || strings.Contains(hostID, "/") {
		return "", "", fmt.Errorf("key %q is not one of a list of endpoints; delete it", e.Key)
	}
	return networkID, hostID, nil
}

// decodeOwn decodes a list of this host and keeps unknown fields for the next write.
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
		// Any MAC is valid here. A MAC that something else on the network has loses the
		// contest for it: settle leaves that endpoint out of what the switch is given.
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

// checkContainer returns an error if a container cannot have this id and name. Both may
// be empty.
func checkContainer(id, name string) error {
	if id != "" {
		if err := api.CheckEndpointID(id); err != nil {
			return err
		}
	}
	return api.CheckContainerName(name)
}

// handedOver reports whether the caller of Attach moves the interface itself.
func (e endpoint) handedOver() bool { return e.IfName == "" }

// container returns the id of the container that has the endpoint.
func (e endpoint) container() string { return cmp.Or(e.ContainerID, e.ID) }

// macOf returns the MAC of an IPv4 endpoint that requests none: locally administered, and
// containing the address, as Docker does it.
func macOf(ip netip.Addr) string { return macVariant(ip, 0) }

// macVariants is the number of addresses that macVariant can return for an IP.
const macVariants = 64

// macVariant returns alternatives to macOf, for when that address was requested for an
// endpoint with another IP. Like macOf's, they are unicast and locally administered.
func macVariant(ip netip.Addr, n int) string {
	b := ip.As4()
	return fmt.Sprintf("%02x:42:%02x:%02x:%02x:%02x", 0x02|n<<2, b[0], b[1], b[2], b[3])
}
