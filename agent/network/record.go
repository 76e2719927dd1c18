// Package network manages the networks of the cluster: their records, subnets, VLANs and
// VNIs in the store. It creates, finds and deletes networks so that two hosts never
// disagree, and so that no network disappears while an endpoint is on it. It never
// touches a switch or an interface. In memory it keeps only which invalid values it has
// logged.
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

// Key prefixes in the store. Each ends with a slash.
const (
	NetworksPrefix  = state.Prefix + "networks/"  // + name: a Record
	EndpointsPrefix = state.Prefix + "endpoints/" // + network/host: that host's endpoints on the network
	VLANsPrefix     = state.Prefix + "vlans/"     // + ID: the network that has the VLAN

	// GenerationKey changes with every creation and deletion of a network. Every
	// creation also writes it, so that two concurrent creations cannot both take the
	// same free subnet.
	GenerationKey = state.Prefix + "network-generation"
)

// Limits of a network's VLAN and VNI.
const (
	MaxVLAN = 4094      // IEEE 802.1Q: 0 and 4095 are reserved
	maxVNI  = 1<<24 - 1 // RFC 7348: 24 bits
	// VNIBase plus the VLAN is the VNI of a new network. It avoids the low VNIs that
	// administrators assign by hand.
	VNIBase = 10000
)

const layout = 1 // version of every value that this package writes

// Record is a network in the store.
type Record struct {
	ID      string // the network's name
	Subnet  netip.Prefix
	Gateway netip.Addr
	VLAN    int
	VNI     uint32
	// Dynamic is the part of the subnet for endpoints that request no specific address.
	// The zero Prefix means the whole subnet.
	Dynamic netip.Prefix
	// AllowMetadata lets the endpoints reach link-local addresses, where clouds provide
	// their metadata service.
	AllowMetadata bool
	// ByDocker is set if a user of Docker created the network. See api.Network.
	ByDocker bool
	// Deleting is set while a host deletes the network. Other hosts then refuse new
	// endpoints on it, and check Version in the transaction that publishes an endpoint.
	// This prevents the deletion of a network that has an endpoint.
	Deleting bool
	Version  uint64 // of the key in the store; changes with every write

	Unknown stored.Unknown // members written by a later release
}

// recordValue is the stored form of a Record.
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
	// Releases that do not know Dynamic reject a record with it, and so the network,
	// because they would allocate addresses outside the range. All releases accept a
	// record without it.
	Dynamic netip.Prefix `json:"dynamic,omitzero"`

	Unknown stored.Unknown `json:"-"`
}

// vlanValue is the value of a VLAN's key.
type vlanValue struct {
	Version int    `json:"version"`
	Network string `json:"network"`
}

// generationValue is the value of GenerationKey. The number makes every value different,
// because a store may ignore a write of an equal value.
type generationValue struct {
	Version    int    `json:"version"`
	Generation uint64 `json:"generation"`

	Unknown stored.Unknown `json:"-"`
}

// Key returns the key of a network's record.
func Key(name string) string { return NetworksPrefix + name }

// VLANKey returns the key that holds the owner of a VLAN.
func VLANKey(id int) string { return VLANsPrefix + strconv.Itoa(id) }

// EndpointsKey returns the key under which a host, identified by its UUID, publishes its
// endpoints on a network.
func EndpointsKey(network, host string) string { return EndpointsPrefix + network + "/" + host }

// Decode decodes a record. Its error is a BadRecordError.
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
	if v.Dynamic != (netip.Prefix{}) {
		if _, err := api.ParseRange(v.Dynamic.String(), v.Subnet); err != nil {
			return bad(err)
		}
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
		Dynamic: v.Dynamic, AllowMetadata: v.AllowMetadata, ByDocker: v.ByDocker, Deleting: v.Deleting, Version: entry.Version, Unknown: v.Unknown,
	}, nil
}

// isHostAddress reports whether addr is in subnet and is neither the network address nor
// the broadcast address.
func isHostAddress(subnet netip.Prefix, addr netip.Addr) bool {
	return subnet.Contains(addr) && addr != subnet.Addr() && subnet.Contains(addr.Next())
}

// dynamic describes the range of dynamic addresses for a message.
func (r Record) dynamic() string {
	if r.Dynamic.IsValid() {
		return fmt.Sprintf("gives dynamic addresses from %s", r.Dynamic)
	}
	return "gives dynamic addresses from all of its subnet"
}

func (r Record) encode() ([]byte, error) {
	return encode(r.ID, recordValue{
		Version: layout, ID: r.ID, Subnet: r.Subnet, Gateway: r.Gateway, VLAN: r.VLAN, VNI: r.VNI,
		Dynamic: r.Dynamic, AllowMetadata: r.AllowMetadata, ByDocker: r.ByDocker, Deleting: r.Deleting, Unknown: r.Unknown,
	})
}

// salvage extracts the subnet from an undecodable record, so that no other network gets
// its addresses.
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
