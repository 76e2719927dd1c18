package api

import (
	"context"
	"net/netip"
	"strings"
)

// ClusterService is how a host enters, leaves and looks at its cluster. What
// changes this host's place makes the agent begin anew: such a call answers
// when that is certain to happen, and Place tells when it has.
type ClusterService interface {
	// Place says what this host is.
	Place(ctx context.Context) (Place, error)
	// Members lists the hosts of the cluster, sorted by name.
	Members(ctx context.Context) ([]Member, error)
	// Token gives the cluster's token, a secret.
	Token(ctx context.Context) (Token, error)
	// Bootstrap begins a cluster of this host alone.
	Bootstrap(ctx context.Context, req BootstrapRequest) (Place, error)
	// Join enters the cluster of the hosts at some addresses, or, without any, the
	// one that is found on this host's segment.
	Join(ctx context.Context, req JoinRequest) (Place, error)
	// Leave makes this host one on its own again.
	Leave(ctx context.Context, req LeaveRequest) (Place, error)
	// Bind chooses the interface of tunnels and cluster.
	Bind(ctx context.Context, req BindRequest) (Place, error)
}

// What a host is in the cluster.
const (
	PlaceAlone        = "alone"
	PlaceBootstrapped = "bootstrapped" // the cluster began here
	PlaceJoined       = "joined"
	PlaceConfigured   = "configured" // consul.address names a Consul that somebody else runs
)

// Place is what a host is in the cluster.
type Place struct {
	Is      string     `json:"is"`
	Cluster string     `json:"cluster"` // id; empty when there is none, or it is not ours to know
	Server  bool       `json:"server"`  // this host's Consul is a server
	Iface   string     `json:"iface"`   // of the tunnels
	Address netip.Addr `json:"address"`
	// Life counts how often the agent has begun anew since its process started.
	Life     int    `json:"life"`
	Ready    bool   `json:"ready"`    // the place is taken: the store of it answers
	Changing bool   `json:"changing"` // the agent is about to begin anew
	Waiting  string `json:"waiting"`  // what the agent waits for, one sentence; empty: nothing
	Insecure bool   `json:"insecure"` // anybody may join this cluster, see cluster.insecure_autojoin
}

// Member is a host of the cluster.
type Member struct {
	ID      string `json:"id"`
	Name    string `json:"name"`
	Address string `json:"address"`
	Role    string `json:"role"`  // server, client, or empty: its Consul is not ours
	State   string `json:"state"` // StateAlive, StateSuspect or StateGone
	Self    bool   `json:"self"`
	Version string `json:"version"` // of its agent
	Behind  bool   `json:"behind"`  // a living host runs a newer one
}

// Token is what lets a host join.
type Token struct {
	Token string `json:"token"`
}

// BootstrapRequest asks for a cluster of its own. An empty Token: the one that
// is here, else a new one.
type BootstrapRequest struct {
	Token string `json:"token,omitempty"`
}

// JoinRequest asks to enter a cluster. An empty Token: the one that is here.
type JoinRequest struct {
	Token     string   `json:"token,omitempty"`
	Addresses []string `json:"addresses,omitempty"` // of hosts in the cluster, one is enough; none: they are found by mDNS
}

// LeaveRequest asks to leave. Force releases the endpoints that are here.
type LeaveRequest struct {
	Force bool `json:"force,omitempty"`
}

// BindRequest names the interface. Empty: the one that is found.
type BindRequest struct {
	Iface string `json:"iface"`
}

// maxJoin bounds how many addresses one request may name.
const maxJoin = 64

// ParseJoin reads the addresses of a JoinRequest, which may have none.
func ParseJoin(addresses []string) ([]netip.Addr, error) {
	if len(addresses) > maxJoin {
		return nil, Errorf(CodeInvalid, "%d addresses to join are more than %d; one host of the cluster is enough", len(addresses), maxJoin)
	}
	var all []netip.Addr
	for _, text := range addresses {
		a, err := netip.ParseAddr(strings.TrimSpace(text))
		if err != nil || !a.Is4() || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
			return nil, Errorf(CodeInvalid, "%s is not the IPv4 address of a host; write it like 192.0.2.11", shown(text))
		}
		all = append(all, a)
	}
	return all, nil
}
