package api

import "net/netip"

// Source says through which door an endpoint came. The agent needs it to know
// who can tell that the owner is gone.
type Source string

// The doors.
const (
	SourceDocker  Source = "docker"  // `socketplane run`: a Docker container under our runtime; Docker says when it is removed
	SourceConnect Source = "connect" // `socketplane connect`: any namespace; it ends with its interface
)

// Endpoint is one container interface on one network.
type Endpoint struct {
	ID            string     `json:"id"` // unique on its host: the container id for Docker, what the user chose for connect
	ContainerID   string     `json:"container_id"`
	ContainerName string     `json:"container_name"`
	Network       string     `json:"network"`
	IP            netip.Addr `json:"ip"`
	MAC           string     `json:"mac"`
	Gateway       netip.Addr `json:"gateway"`
	PrefixLen     int        `json:"prefix_len"`
	MTU           int        `json:"mtu"`
	Port          string     `json:"port"` // OVS port on the integration bridge; empty while not attached
	Host          string     `json:"host"` // the host's name
	Source        Source     `json:"source"`
	Attached      bool       `json:"attached"` // false: the address is held, but no interface exists (a stopped container)
}

// ReserveRequest holds an address of a network for a container that does not
// run yet. The same request again gives the same endpoint.
type ReserveRequest struct {
	ID            string `json:"id"`
	ContainerName string `json:"container_name,omitempty"`
	Network       string `json:"network"`      // empty: DefaultNetwork
	IP            string `json:"ip,omitempty"` // empty: the next free one
	Source        Source `json:"source"`
}

// AttachRequest puts an interface into a network namespace. With a Network it
// reserves first; without one the endpoint must have been reserved.
type AttachRequest struct {
	ID            string `json:"id"`
	ContainerName string `json:"container_name,omitempty"`
	Network       string `json:"network,omitempty"`
	IP            string `json:"ip,omitempty"`
	Source        Source `json:"source,omitempty"`
	NetNS         string `json:"netns"`            // path of the namespace, such as /proc/1234/ns/net
	IfName        string `json:"ifname,omitempty"` // name inside the namespace; empty: eth0
}
