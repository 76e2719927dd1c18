// Package api owns the vocabulary of SocketPlane, the Service interface that the agent
// implements, its error codes, and both ends of the wire: the HTTP handler and the client.
// It makes no decisions and imports only the standard library.
package api

import (
	"context"
	"time"
)

// Service is the API of an agent, in process or over the socket. Every method may return
// an *Error, see Code.
type Service interface {
	Status(ctx context.Context) (Status, error)

	CreateNetwork(ctx context.Context, req CreateNetworkRequest) (Network, error)
	Networks(ctx context.Context) ([]Network, error) // sorted by ID
	Network(ctx context.Context, id string) (Network, error)
	DeleteNetwork(ctx context.Context, id string) error

	// Endpoints lists the endpoints of this host, sorted by container id.
	Endpoints(ctx context.Context) ([]Endpoint, error)
	// AllEndpoints lists the endpoints of every host in the same order, as far as this
	// host knows them. It omits Port, Peer and NetNS, which only the endpoint's own host
	// knows.
	AllEndpoints(ctx context.Context) ([]Endpoint, error)
	// Endpoint finds an endpoint by id, by a unique prefix of the id, or by container
	// name.
	Endpoint(ctx context.Context, ref string) (Endpoint, error)
	// Drops returns, by endpoint id, the counts of packets that the switch dropped from
	// endpoints of this host. It omits endpoints without drops.
	Drops(ctx context.Context) (map[string]Drops, error)
	// Hold reserves an address until an endpoint takes it over, Unhold releases it, or one
	// minute has passed.
	Hold(ctx context.Context, req HoldRequest) (Hold, error)
	// Unhold releases an address that Hold reserved. Idempotent.
	Unhold(ctx context.Context, network, ip string) error
	// Reserve reserves an address for an endpoint without attaching it.
	Reserve(ctx context.Context, req ReserveRequest) (Endpoint, error)
	// Describe sets the container of an endpoint. It returns CodeNotFound if the endpoint
	// is gone.
	Describe(ctx context.Context, req DescribeRequest) (Endpoint, error)
	// Publish replaces the published ports of an endpoint. An empty list withdraws all.
	Publish(ctx context.Context, id string, ports []PortMapping) (Endpoint, error)
	// SetRoutes replaces the prefixes that hosts, and containers of the network, reach
	// through an endpoint. An empty list withdraws all. SetRoutes also allows the endpoint
	// these prefixes.
	SetRoutes(ctx context.Context, id string, prefixes []string) (Endpoint, error)
	// Attach puts an interface into a namespace. Repeating the request returns the same
	// endpoint.
	Attach(ctx context.Context, req AttachRequest) (Endpoint, error)
	// Detach removes the interface and keeps the address. It may return before the removal
	// is complete; a later call for the same id waits for it. Idempotent.
	Detach(ctx context.Context, id string) error
	// Release detaches the endpoint and releases its address. Idempotent.
	Release(ctx context.Context, id string) error
}

// Status describes the agent and its view of the host and the cluster.
type Status struct {
	Version  string   `json:"version"`
	PID      int      `json:"pid"`
	Host     Host     `json:"host"`
	Ready    bool     `json:"ready"`    // the first converge has succeeded
	Problems []string `json:"problems"` // deviations of the host from its desired state, one sentence each
	Store    string   `json:"store"`    // "consul " and its address (unix://PATH: the agent runs it), or "embedded"
	Bridge   string   `json:"bridge"`
	Uplinks  []string `json:"uplinks"` // interfaces that carry traffic of containers to the outside and packets of other hosts; sorted
	Peers    []Peer   `json:"peers"`   // sorted by name
	// Overwritten lists the keys in the store that only this host writes, but that someone
	// else has written since the agent started. The agent has corrected them. If there are
	// many, the last entry stands for the rest, and its key ends in "* (N more)".
	Overwritten []Overwritten `json:"overwritten,omitempty"`
}

// Overwritten is a key of this host that someone else wrote.
type Overwritten struct {
	Key   string    `json:"key"`
	Count int       `json:"count"`
	Last  time.Time `json:"last"`
}

// Host is the host that the agent runs on.
type Host struct {
	ID       string `json:"id"` // UUID
	Name     string `json:"name"`
	VTEP     string `json:"vtep"`     // tunnel address
	Datapath string `json:"datapath"` // system or netdev
}

// Values of Peer.State and Member.State.
const (
	StateAlive   = "alive"
	StateSuspect = "suspect" // its session has ended
	StateGone    = "gone"    // its machine is dead; this host sends it nothing
)

// Peer is another host as this host sees it.
type Peer struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	VTEP   string `json:"vtep"`
	State  string `json:"state"`  // StateAlive, StateSuspect or StateGone
	Tunnel string `json:"tunnel"` // port on the integration bridge; empty: none yet
	// PathMTU is the largest packet that reaches the peer, in bytes. It is 0 while not
	// known. It stays 0 for hosts whose release does not answer probes.
	PathMTU int `json:"path_mtu,omitempty"`
}
