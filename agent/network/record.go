// Package network owns the networks of the cluster: their records, their
// subnets, VLANs and VNIs in the store. It creates, finds and deletes them such
// that two hosts never disagree and no network goes while an endpoint is on it.
// It never touches a switch, an interface or an address, and keeps nothing in
// memory between calls.
package network

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/agent/stored"
)

// Where things lie in the store. Each prefix ends in a slash.
const (
	NetworksPrefix  = state.Prefix + "networks/"  // + name: a Record
	EndpointsPrefix = state.Prefix + "endpoints/" // + network/host: that host's endpoints on the network
	VLANsPrefix     = state.Prefix + "vlans/"     // + id: the network that has the VLAN

	// GenerationKey changes with every network that is created or deleted. Who
	// creates one writes it too, so that two creations cannot both believe that
	// a subnet is free.
	GenerationKey = state.Prefix + "network-generation"
)

// Bounds of the ids of a network.
const (
	MaxVLAN = 4094      // IEEE 802.1Q: 0 and 4095 are reserved
	maxVNI  = 1<<24 - 1 // RFC 7348: 24 bits
	// VNIBase plus the VLAN is the VNI of a network made here. It keeps ours
	// apart from the low VNIs that people pick by hand.
	VNIBase = 10000
)

const layout = 1 // version of every value written here

// Record is a network as the store has it.
type Record struct {
	ID      string // the network's name
	Subnet  netip.Prefix
	Gateway netip.Addr
	VLAN    int
	VNI     uint32
	// AllowMetadata lets its endpoints reach link-local addresses, where clouds
	// have their metadata service.
	AllowMetadata bool
	// ByDocker: a user of Docker made it. See api.Network.
	ByDocker bool
	// Deleting is set while somebody deletes the network. Whoever puts an
	// endpoint on a network refuses then, and checks Version in the transaction
	// that publishes the endpoint: that is what keeps a network from going away
	// under an endpoint.
	Deleting bool
	Version  uint64 // of the key in the store; it changes with every write

	Unknown stored.Unknown // what a later release has written beside
}

// recordValue is a record's value in the store.
type recordValue struct {
	Version  int          `json:"version"`
	ID       string       `json:"id"`
	Subnet   netip.Prefix `json:"subnet"`
	Gateway  netip.Addr   `json:"gateway"`
	VLAN     int          `json:"vlan"`
	VNI      uint32       `json:"vni"`
	Deleting bool         `json:"deleting,omitempty"`

	AllowMetadata bool `json:"allow_metadata,omitempty"`
	ByDocker      bool `json:"by_docker,omitempty"`

	Unknown stored.Unknown `json:"-"`
}

// vlanValue is the value of a VLAN's key.
type vlanValue struct {
	Version int    `json:"version"`
	Network string `json:"network"`
}

// generationValue is the value of GenerationKey. The number makes each value
// another: a store may take writing the same value again for no write at all.
type generationValue struct {
	Version    int    `json:"version"`
	Generation uint64 `json:"generation"`

	Unknown stored.Unknown `json:"-"`
}

// Key is where a network's record lies.
func Key(name string) string { return NetworksPrefix + name }

// VLANKey is where the owner of a VLAN is written.
func VLANKey(id int) string { return VLANsPrefix + strconv.Itoa(id) }

// EndpointsKey is where a host, given by its UUID, publishes its endpoints on a network.
func EndpointsKey(network, host string) string { return EndpointsPrefix + network + "/" + host }

// Decode reads a record. Its error is a BadRecordError.
func Decode(entry state.Entry) (Record, error) {
	bad := func(err error) (Record, error) { return Record{}, &BadRecordError{Key: entry.Key, Cause: err} }
	var v recordValue
	if err := stored.Decode(entry.Value, layout, &v); err != nil {
		return bad(err)
	}
	if err := api.CheckNetworkName(v.ID); err != nil {
		return bad(err)
	}
	if Key(v.ID) != entry.Key {
		return bad(fmt.Errorf("it is the record of %q", v.ID))
	}
	if _, err := api.ParseSubnet(v.Subnet.String()); err != nil {
		return bad(err)
	}
	switch {
	case !isHostAddress(v.Subnet, v.Gateway):
		return bad(fmt.Errorf("gateway %s is no host address of %s", v.Gateway, v.Subnet))
	case v.VLAN < 1 || v.VLAN > MaxVLAN:
		return bad(fmt.Errorf("VLAN %d is not 1 to %d", v.VLAN, MaxVLAN))
	case v.VNI < 1 || v.VNI > maxVNI:
		return bad(fmt.Errorf("VNI %d is not 1 to %d", v.VNI, maxVNI))
	}
	return Record{
		ID: v.ID, Subnet: v.Subnet, Gateway: v.Gateway, VLAN: v.VLAN, VNI: v.VNI,
		AllowMetadata: v.AllowMetadata, ByDocker: v.ByDocker, Deleting: v.Deleting, Version: entry.Version, Unknown: v.Unknown,
	}, nil
}

// isHostAddress says whether an address is one of a subnet, and neither the
// network's nor the broadcast address.
func isHostAddress(subnet netip.Prefix, addr netip.Addr) bool {
	return subnet.Contains(addr) && addr != subnet.Addr() && subnet.Contains(addr.Next())
}

func (r Record) encode() ([]byte, error) {
	return encode(r.ID, recordValue{
		Version: layout, ID: r.ID, Subnet: r.Subnet, Gateway: r.Gateway, VLAN: r.VLAN, VNI: r.VNI,
		AllowMetadata: r.AllowMetadata, ByDocker: r.ByDocker, Deleting: r.Deleting, Unknown: r.Unknown,
	})
}

// salvage reads the subnet out of a record that is otherwise unreadable, so that
// nobody else is given its addresses.
func salvage(value []byte) (netip.Prefix, bool) {
	var v struct {
		Subnet netip.Prefix `json:"subnet"`
	}
	if err := json.Unmarshal(value, &v); err != nil || !v.Subnet.IsValid() {
		return netip.Prefix{}, false
	}
	return v.Subnet.Masked(), true
}

func encode(name string, v any) ([]byte, error) {
	value, err := stored.Encode(v)
	if err != nil {
		return nil, fmt.Errorf("network %q: encode: %w", name, err)
	}
	return value, nil
}
