package api

import (
	"net/netip"
)

// DefaultNetwork is the network a container joins when none is named; the
// first agent of a cluster makes it.
const DefaultNetwork = "default"

// Network is a layer-2 and layer-3 segment that spans all hosts.
type Network struct {
	ID      string       `json:"id"`      // the name: 1 to 64 of [a-zA-Z0-9_.-], beginning with a letter or digit
	Subnet  netip.Prefix `json:"subnet"`  // IPv4, host bits zero, /8 to /30
	Gateway netip.Addr   `json:"gateway"` // the subnet's first host address unless another was asked for, the same on every host
	VLAN    int          `json:"vlan"`    // 1 to 4094 (IEEE 802.1Q), unique in the cluster
	VNI     uint32       `json:"vni"`     // 24 bits (RFC 7348), on the wire
	MTU     int          `json:"mtu"`     // bytes of an IP packet inside the network

	// Dynamic is the part of the subnet from which endpoints get an address that ask for
	// none by name; the zero Prefix: all of it.
	Dynamic netip.Prefix `json:"dynamic,omitzero"`
	// AllowMetadata: its endpoints reach the addresses where clouds have their metadata
	// service, most of them in 169.254.0.0/16.
	AllowMetadata bool `json:"allow_metadata,omitempty"`
	// ByDocker: a user of Docker made it (docker network create). It goes when its
	// Docker network is removed, on whatever host; others only come back then, or
	// a docker system prune would take networks from all hosts.
	ByDocker bool `json:"by_docker,omitempty"`
	// Problem: why the host that was asked does not use the network as its record
	// says, in one sentence.
	Problem string `json:"problem,omitempty"`
}

// CreateNetworkRequest asks for a network. A zero Subnet means: pick a free one.
type CreateNetworkRequest struct {
	ID      string `json:"id"`
	Subnet  string `json:"subnet,omitempty"`  // CIDR; host bits must be zero
	Gateway string `json:"gateway,omitempty"` // needs a Subnet; empty: its first host address
	// Dynamic, a CIDR, is where addresses come from that nobody asked for by name. It needs
	// a Subnet, and the same release on all hosts. Empty: all of the subnet.
	Dynamic string `json:"dynamic,omitempty"`
	// AllowMetadata lets its endpoints reach link-local addresses, where clouds have
	// their metadata service. A network that exists keeps what it was made with.
	AllowMetadata bool `json:"allow_metadata,omitempty"`
	ByDocker      bool `json:"by_docker,omitempty"` // see Network; one that exists stays what it is
	// Docker is what a user of Docker gave the network. It does not go over the wire.
	Docker *DockerSpec `json:"-"`
	DryRun bool        `json:"dry_run,omitempty"` // only say what would be made, or why it cannot be
}
