package api

import "net/netip"

// Source identifies the interface through which an endpoint was created. The agent needs
// it to know who reports that the owner of the endpoint is gone.
type Source string

// Values of Source.
const (
	SourceDocker   Source = "docker"   // `socketplane run`: a Docker container under our runtime; Docker reports its removal
	SourceDriver   Source = "driver"   // Docker's own networks, through our plugin; Docker reports when it releases the address
	SourceCNI      Source = "cni"      // the CNI plugin; the runtime calls DEL, or the endpoint ends with its interface
	SourceNetavark Source = "netavark" // the netavark plugin; Podman calls teardown, or the endpoint ends with its interface
	SourceLegacy   Source = "legacy"   // the REST API of 2015; the endpoint ends with its interface
	SourceConnect  Source = "connect"  // `socketplane connect`: any namespace; the endpoint ends with its interface
)

// Endpoint is one container interface on one network.
type Endpoint struct {
	ID            string        `json:"id"` // unique on its host: the container id for Docker, the id that the user chose for connect
	ContainerID   string        `json:"container_id"`
	ContainerName string        `json:"container_name"`
	Network       string        `json:"network"`
	IP            netip.Addr    `json:"ip"`
	MAC           string        `json:"mac"`
	Gateway       netip.Addr    `json:"gateway"`
	PrefixLen     int           `json:"prefix_len"`
	MTU           int           `json:"mtu"`
	Port          string        `json:"port"`           // OVS port on the integration bridge; empty while not attached
	Peer          string        `json:"peer,omitempty"` // container's end of the pair while it is on the host, until the caller of a hand-over moves it
	IfName        string        `json:"ifname"`         // name inside the namespace; empty after a hand-over, because the caller chose it
	Ports         []PortMapping `json:"ports,omitempty"`
	Host          string        `json:"host"`            // the host's name
	NetNS         string        `json:"netns,omitempty"` // path of the namespace as passed to Attach, while attached
	Source        Source        `json:"source"`
	Attached      bool          `json:"attached"` // false: the endpoint holds its address but has no interface (a stopped container)
	// Problem says why the endpoint's packets do not pass, and what to do. It is empty if
	// no problem is known. Only the endpoint's own host sets it.
	Problem string `json:"problem,omitempty"`

	AllowAddresses []netip.Prefix `json:"allow_addresses,omitempty"` // addresses that it may use beside IP, see ReserveRequest
	Forwarding     bool           `json:"forwarding,omitempty"`      // it forwards packets of others, whose addresses are outside the network's subnet
	Routes         []netip.Prefix `json:"routes,omitempty"`          // prefixes that are reached through it, see Service.SetRoutes
}

// ReserveRequest reserves an address of a network for a container that does not run yet.
// Repeating the request returns the same endpoint.
type ReserveRequest struct {
	ID            string        `json:"id"`
	ContainerID   string        `json:"container_id,omitempty"` // empty: same as ID
	ContainerName string        `json:"container_name,omitempty"`
	Network       string        `json:"network"`       // empty: DefaultNetwork
	IP            string        `json:"ip,omitempty"`  // empty: the next free one
	MAC           string        `json:"mac,omitempty"` // empty: 02:42 and the address
	Ports         []PortMapping `json:"ports,omitempty"`
	Source        Source        `json:"source"`

	// AllowAddresses are addresses and prefixes that the endpoint may use beside its own.
	// Several endpoints may share them. They are in the network's subnet, or outside of it
	// with Forwarding: then the container routes for the addresses behind it.
	AllowAddresses []string `json:"allow_addresses,omitempty"`
	Forwarding     bool     `json:"forwarding,omitempty"`
}

// DescribeRequest names the container of an endpoint. Docker reports the container of an
// endpoint on its own networks only after the container has started.
type DescribeRequest struct {
	ID            string `json:"id"`
	ContainerID   string `json:"container_id"`
	ContainerName string `json:"container_name"`
}

// AttachRequest puts an interface into a network namespace. With a Network it also
// reserves the endpoint. Without one the endpoint must be reserved already.
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
	HandOver      bool          `json:"hand_over,omitempty"` // leave the interface on the host, as Endpoint.Peer: the caller moves it into NetNS and sets name, address and routes

	AllowAddresses []string `json:"allow_addresses,omitempty"` // as in ReserveRequest
	Forwarding     bool     `json:"forwarding,omitempty"`
}

// HoldRequest asks for an address before its endpoint exists.
type HoldRequest struct {
	Network string `json:"network"`
	IP      string `json:"ip,omitempty"` // empty: the next free one
	// From is an endpoint of SourceDriver on this host whose container is stopped. If it
	// has the address, it ends and the hold takes the address over.
	From string `json:"from,omitempty"`
	// Range is the part of the network's subnet, as a CIDR, that the next free address
	// comes from. If empty, it is the whole subnet.
	Range string `json:"range,omitempty"`
}

// Hold is an address that is reserved for one minute. An endpoint of SourceDriver that is
// reserved with this address takes it over.
type Hold struct {
	Network   string     `json:"network"`
	IP        netip.Addr `json:"ip"`
	PrefixLen int        `json:"prefix_len"`
	Gateway   netip.Addr `json:"gateway"`
}
