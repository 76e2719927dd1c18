package api

import (
	"net/netip"
)

// DefaultNetwork is the network that a container joins if none is named. The first agent
// of a cluster creates it.
const DefaultNetwork = "default"

// Network is a layer-2 and layer-3 segment that spans all hosts.
type Network struct {
	ID      string       `json:"id"`      // the name: 1 to 64 of [a-zA-Z0-9_.-], starting with a letter or digit
	Subnet  netip.Prefix `json:"subnet"`  // IPv4, host bits zero, /8 to /30
	Gateway netip.Addr   `json:"gateway"` // same on every host; the subnet's first host address unless the request names another
	VLAN    int          `json:"vlan"`    // 1 to 4094 (IEEE 802.1Q), unique in the cluster
	VNI     uint32       `json:"vni"`     // 24 bits (RFC 7348), as sent on the wire
	MTU     int          `json:"mtu"`     // bytes of an IP packet inside the network

	// Dynamic is the part of the subnet for endpoints that do not request an address. The
	// zero Prefix means the whole subnet.
	Dynamic netip.Prefix `json:"dynamic,omitzero"`
	// AllowMetadata lets the endpoints reach the metadata services of clouds. Most of
	// their addresses are in 169.254.0.0/16.
	AllowMetadata bool `json:"allow_metadata,omitempty"`
	// ByDocker means that a Docker user created the network (docker network create). The
	// network is deleted when its Docker network is removed on any host. The agent
	// recreates the Docker network of any other network instead, because a docker system
	// prune would otherwise delete networks on all hosts.
	ByDocker bool `json:"by_docker,omitempty"`
	// Problem says in one sentence why the queried host does not use the network as
	// recorded.
	Problem string `json:"problem,omitempty"`
}

// CreateNetworkRequest asks for a network. If Subnet is empty, the agent selects a free
// one.
type CreateNetworkRequest struct {
	ID      string `json:"id"`
	Subnet  string `json:"subnet,omitempty"`  // CIDR; host bits must be zero
	Gateway string `json:"gateway,omitempty"` // needs a Subnet; empty: its first host address
	// Dynamic is the CIDR for addresses that no one requested explicitly. It needs a
	// Subnet, and the same release on all hosts. If empty, it is the whole subnet.
	Dynamic string `json:"dynamic,omitempty"`
	// AllowMetadata lets the endpoints reach link-local addresses, where clouds serve
	// their metadata. An existing network keeps its setting.
	AllowMetadata bool `json:"allow_metadata,omitempty"`
	ByDocker      bool `json:"by_docker,omitempty"` // see Network; an existing network keeps its setting
	// Docker is what a Docker user specified for the network. It is not sent over the
	// wire.
	Docker *DockerSpec `json:"-"`
	DryRun bool        `json:"dry_run,omitempty"` // only report what would be created, or why it cannot be
}
