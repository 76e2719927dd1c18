package agent

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/agent/state"
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

	Allowed    []netip.Prefix `json:"allowed,omitempty"`    // what it may have beside IP
	Forwarding bool           `json:"forwarding,omitempty"` // some of that may lie outside of the network's subnet
}

// endpointList is the value of a key endpoints/<network>/<host>.
type endpointList struct {
	Version   int        `json:"version"`
	Endpoints []endpoint `json:"endpoints"`
}

func encodeEndpoints(list []endpoint) ([]byte, error) {
	slices.SortFunc(list, func(a, b endpoint) int { return strings.Compare(a.ID, b.ID) })
	return json.Marshal(endpointList{Version: listVersion, Endpoints: list})
}

// decodeEndpoints reads one host's list strictly, and says whose it is also
// when it cannot be read. A key that names no list gives neither.
func decodeEndpoints(e state.Entry) (networkID, hostID string, list []endpoint, err error) {
	networkID, hostID, ok := strings.Cut(strings.TrimPrefix(e.Key, network.EndpointsPrefix), "/")
	if !ok || networkID == "" || hostID == "" || strings.Contains(hostID, "/") {
		return "", "", nil, fmt.Errorf("key %q is not one of a list of endpoints; delete it", e.Key)
	}
	if list, err = decodeList(e.Value); err != nil {
		return networkID, hostID, nil, fmt.Errorf("endpoints in key %q cannot be decoded (%w); mend them or delete the key", e.Key, err)
	}
	return networkID, hostID, list, nil
}

func decodeList(value []byte) ([]endpoint, error) {
	var l endpointList
	dec := json.NewDecoder(bytes.NewReader(value))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&l); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the value")
	}
	if l.Version != listVersion {
		return nil, fmt.Errorf("layout version %d is not %d", l.Version, listVersion)
	}
	if len(l.Endpoints) > maxEndpoints {
		return nil, fmt.Errorf("%d endpoints are more than the %d that a host can have on a network", len(l.Endpoints), maxEndpoints)
	}
	ids := make(map[string]bool, len(l.Endpoints))
	for _, ep := range l.Endpoints {
		// A MAC may be any: package ovs sees to it that none is programmed which
		// belongs to something else on the segment.
		mac, err := api.ParseMAC(ep.MAC)
		if err != nil || mac != ep.MAC || !ep.IP.Is4() || ids[ep.ID] {
			return nil, fmt.Errorf("%.80q with address %q and MAC %.20q is no endpoint", ep.ID, ep.IP, ep.MAC)
		}
		if err := errors.Join(api.CheckEndpointID(ep.ID), checkContainer(ep.ContainerID, ep.ContainerName), checkPorts(ep.Ports, ep.HostPorts), checkAllowed(ep.Allowed)); err != nil {
			return nil, err
		}
		ids[ep.ID] = true
	}
	return l.Endpoints, nil
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
func macOf(ip netip.Addr) string {
	b := ip.As4()
	return fmt.Sprintf("02:42:%02x:%02x:%02x:%02x", b[0], b[1], b[2], b[3])
}
