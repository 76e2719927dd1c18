// Package api owns the vocabulary of SocketPlane, the Service interface that
// the agent implements, its error codes, and both ends of the wire: the HTTP
// handler and the client. It never decides anything and imports only the
// standard library.
package api

import (
	"context"
	"time"
)

// Service is what an agent does for those who call it, in process or over the
// socket. Every method may return an *Error, see Code.
type Service interface {
	Status(ctx context.Context) (Status, error)

	CreateNetwork(ctx context.Context, req CreateNetworkRequest) (Network, error)
	Networks(ctx context.Context) ([]Network, error) // sorted by ID
	Network(ctx context.Context, id string) (Network, error)
	DeleteNetwork(ctx context.Context, id string) error

	// Endpoints lists the endpoints of this host, sorted by container id.
	Endpoints(ctx context.Context) ([]Endpoint, error)
	// AllEndpoints lists those of every host, as this host knows them, in the same order.
	// What only their own host knows is left out: Port, Peer and NetNS.
	AllEndpoints(ctx context.Context) ([]Endpoint, error)
	// Endpoint finds one by id, by a unique prefix of the id, or by container name.
	Endpoint(ctx context.Context, ref string) (Endpoint, error)
	// Drops counts, by endpoint id, what the switch dropped of what this host's endpoints
	// sent. Endpoints of which nothing was dropped are left out.
	Drops(ctx context.Context) (map[string]Drops, error)
	// Hold keeps an address until an endpoint takes it over, Unhold, or a minute has gone.
	Hold(ctx context.Context, req HoldRequest) (Hold, error)
	// Unhold gives an address back that Hold kept. Idempotent.
	Unhold(ctx context.Context, network, ip string) error
	// Reserve holds an address for an endpoint without attaching it.
	Reserve(ctx context.Context, req ReserveRequest) (Endpoint, error)
	// Describe says whose an endpoint is. One that is gone is not found.
	Describe(ctx context.Context, req DescribeRequest) (Endpoint, error)
	// Publish makes the published ports of an endpoint those given; none takes all back.
	Publish(ctx context.Context, id string, ports []PortMapping) (Endpoint, error)
	// SetRoutes makes the prefixes that hosts, and containers of the network, reach by way
	// of an endpoint those given; none takes all back. The endpoint is allowed each.
	SetRoutes(ctx context.Context, id string, prefixes []string) (Endpoint, error)
	// Attach gives a namespace its interface; the same request again gives the same endpoint.
	Attach(ctx context.Context, req AttachRequest) (Endpoint, error)
	// Detach takes the interface away and keeps the address. It returns when that
	// is under way; a later call for the same id waits for it. Idempotent.
	Detach(ctx context.Context, id string) error
	// Release detaches, and gives the address back. Idempotent.
	Release(ctx context.Context, id string) error
}

// Status describes the agent and what it sees.
type Status struct {
	Version  string   `json:"version"`
	PID      int      `json:"pid"`
	Host     Host     `json:"host"`
	Ready    bool     `json:"ready"`    // the first converge has succeeded
	Problems []string `json:"problems"` // what keeps the host from what it should be, one sentence each
	Store    string   `json:"store"`    // "consul " and its address (unix://PATH: the one that the agent runs), or "embedded"
	Bridge   string   `json:"bridge"`
	Uplinks  []string `json:"uplinks"` // interfaces by which containers leave, and packets of other hosts come; sorted
	Peers    []Peer   `json:"peers"`   // sorted by name
	// Overwritten are the keys of the store that only this host writes and somebody
	// else wrote since the agent began. They were put right. Where there are many, the
	// last entry stands for the rest, and its key ends in "* (N more)".
	Overwritten []Overwritten `json:"overwritten,omitempty"`
}

// Overwritten is a key of this host that somebody else wrote.
type Overwritten struct {
	Key   string    `json:"key"`
	Count int       `json:"count"`
	Last  time.Time `json:"last"`
}

// Host is the host the agent runs on.
type Host struct {
	ID       string `json:"id"` // UUID
	Name     string `json:"name"`
	VTEP     string `json:"vtep"`     // tunnel address
	Datapath string `json:"datapath"` // system or netdev
}

// States of a host as another one sees it.
const (
	StateAlive   = "alive"
	StateSuspect = "suspect" // its session has ended
	StateGone    = "gone"    // its machine is dead, and nothing is sent to it
)

// Peer is another host as seen from here.
type Peer struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	VTEP   string `json:"vtep"`
	State  string `json:"state"`  // StateAlive, StateSuspect or StateGone
	Tunnel string `json:"tunnel"` // port on the integration bridge; empty: not yet
	// PathMTU is the largest packet that reaches it, in bytes; 0: not known (yet), as
	// of hosts whose release does not answer probes.
	PathMTU int `json:"path_mtu,omitempty"`
}
