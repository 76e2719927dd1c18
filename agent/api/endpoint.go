package api

import "net/netip"

// Source says through which door an endpoint came. The agent needs it to know
// who can tell that the owner is gone.
type Source string

// The doors.
const (
	SourceDocker   Source = "docker"   // `socketplane run`: a Docker container under our runtime; Docker says when it is removed
	SourceDriver   Source = "driver"   // Docker's own networks, through our plugin; Docker says when it gives the address back
	SourceCNI      Source = "cni"      // the CNI plugin; the runtime says DEL, or it ends with its interface
	SourceNetavark Source = "netavark" // the netavark plugin; Podman says teardown, or it ends with its interface
	SourceLegacy   Source = "legacy"   // the REST API of 2015; it ends with its interface
	SourceConnect  Source = "connect"  // `socketplane connect`: any namespace; it ends with its interface
)

// Endpoint is one container interface on one network.
type Endpoint struct {
	ID            string        `json:"id"` // unique on its host: the container id for Docker, what the user chose for connect
	ContainerID   string        `json:"container_id"`
	ContainerName string        `json:"container_name"`
	Network       string        `json:"network"`
	IP            netip.Addr    `json:"ip"`
	MAC           string        `json:"mac"`
	Gateway       netip.Addr    `json:"gateway"`
	PrefixLen     int           `json:"prefix_len"`
	MTU           int           `json:"mtu"`
	Port          string        `json:"port"`           // OVS port on the integration bridge; empty while not attached
	Peer          string        `json:"peer,omitempty"` // container's end on the host, until the caller of a hand-over has moved it
	IfName        string        `json:"ifname"`         // name inside the namespace; empty after a hand-over: the caller chose it
	Ports         []PortMapping `json:"ports,omitempty"`
	Host          string        `json:"host"`            // the host's name
	NetNS         string        `json:"netns,omitempty"` // path of the namespace as Attach was given it, while attached
	Source        Source        `json:"source"`
	Attached      bool          `json:"attached"` // false: the address is held, but no interface exists (a stopped container)
	// Problem says why none of its packets passes, and what to do; empty: none is known.
	// The endpoint's own host knows it only.
	Problem string `json:"problem,omitempty"`

	AllowAddresses []netip.Prefix `json:"allow_addresses,omitempty"` // what it may have beside IP, see ReserveRequest
	Forwarding     bool           `json:"forwarding,omitempty"`      // it sends for others, from outside the network's subnet
	Routes         []netip.Prefix `json:"routes,omitempty"`          // what is reached by way of it, see Service.SetRoutes
}

// ReserveRequest holds an address of a network for a container that does not
// run yet. The same request again gives the same endpoint.
type ReserveRequest struct {
	ID            string        `json:"id"`
	ContainerID   string        `json:"container_id,omitempty"` // empty: the ID
	ContainerName string        `json:"container_name,omitempty"`
	Network       string        `json:"network"`       // empty: DefaultNetwork
	IP            string        `json:"ip,omitempty"`  // empty: the next free one
	MAC           string        `json:"mac,omitempty"` // empty: 02:42 and the address
	Ports         []PortMapping `json:"ports,omitempty"`
	Source        Source        `json:"source"`

	// AllowAddresses are addresses and prefixes that the endpoint may have beside its
	// own; others may be allowed the same. They lie in the network's subnet, or with
	// Forwarding outside of it: then the container routes for what is behind it.
	AllowAddresses []string `json:"allow_addresses,omitempty"`
	Forwarding     bool     `json:"forwarding,omitempty"`
}

// DescribeRequest says whose an endpoint is. Docker tells of its own networks'
// endpoints only after the container has started.
type DescribeRequest struct {
	ID            string `json:"id"`
	ContainerID   string `json:"container_id"`
	ContainerName string `json:"container_name"`
}

// AttachRequest puts an interface into a network namespace. With a Network it
// reserves first; without one the endpoint must have been reserved.
type AttachRequest struct {
	ID            string        `json:"id"`
	ContainerID   string        `json:"container_id,omitempty"`
	ContainerName string        `json:"container_name,omitempty"`
	Network       string        `json:"network,omitempty"`
	IP            string        `json:"ip,omitempty"`
	MAC           string        `json:"mac,omitempty"`
	Ports         []PortMapping `json:"ports,omitempty"`
	Source        Source        `json:"source,omitempty"`
	NetNS         string        `json:"netns"`               // path of the namespace, such as /proc/1234/ns/net
	IfName        string        `json:"ifname,omitempty"`    // name inside the namespace; empty: eth0
	HandOver      bool          `json:"hand_over,omitempty"` // leave the interface on the host, as Endpoint.Peer: the caller moves it into NetNS and gives it name, address and routes

	AllowAddresses []string `json:"allow_addresses,omitempty"` // as in ReserveRequest
	Forwarding     bool     `json:"forwarding,omitempty"`
}

// HoldRequest asks for an address before there is an endpoint that has it.
type HoldRequest struct {
	Network string `json:"network"`
	IP      string `json:"ip,omitempty"` // empty: the next free one
	// From is an endpoint of SourceDriver on this host whose container is stopped. If it
	// has the address, it ends, and the hold gets the address from it.
	From string `json:"from,omitempty"`
	// Range is a part of the network's subnet, as a CIDR, to choose the next free address
	// from; empty: all of it.
	Range string `json:"range,omitempty"`
}

// Hold is an address that is kept for a minute. An endpoint that is reserved
// with this address, by SourceDriver, takes it over.
type Hold struct {
	Network   string     `json:"network"`
	IP        netip.Addr `json:"ip"`
	PrefixLen int        `json:"prefix_len"`
	Gateway   netip.Addr `json:"gateway"`
}
