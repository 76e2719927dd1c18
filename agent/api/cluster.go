package api

import (
	"context"
	"net/netip"
	"strings"
)

// ClusterService lets a host join, leave and inspect its cluster. A call that changes the
// place of this host restarts the agent's work. Such a call returns as soon as the restart
// is certain. Place reports when it is complete.
type ClusterService interface {
	// Place returns the state of this host in the cluster.
	Place(ctx context.Context) (Place, error)
	// Members lists the hosts of the cluster, sorted by name.
	Members(ctx context.Context) ([]Member, error)
	// Token returns the cluster's token, which is secret.
	Token(ctx context.Context) (Token, error)
	// Bootstrap starts a cluster that consists of this host alone.
	Bootstrap(ctx context.Context, req BootstrapRequest) (Place, error)
	// Join joins the cluster of the hosts at the given addresses. Without addresses it
	// joins the cluster that it finds on this host's segment.
	Join(ctx context.Context, req JoinRequest) (Place, error)
	// Leave takes this host out of its cluster.
	Leave(ctx context.Context, req LeaveRequest) (Place, error)
	// Bind selects the interface for tunnels and cluster traffic.
	Bind(ctx context.Context, req BindRequest) (Place, error)
}

// Values of Place.Is.
const (
	PlaceAlone        = "alone"
	PlaceBootstrapped = "bootstrapped" // the cluster started on this host
	PlaceJoined       = "joined"
	PlaceConfigured   = "configured" // consul.address names a Consul that someone else runs
)

// Place is the state of a host in the cluster.
type Place struct {
	Is      string     `json:"is"`
	Cluster string     `json:"cluster"` // id; empty if there is no cluster or its id is not known to the agent
	Server  bool       `json:"server"`  // the Consul of this host is a server
	Iface   string     `json:"iface"`   // interface of the tunnels
	Address netip.Addr `json:"address"`
	// Life counts the restarts of the agent's work since its process started.
	Life     int    `json:"life"`
	Ready    bool   `json:"ready"`    // the change of place is complete: its store answers
	Changing bool   `json:"changing"` // the agent is about to restart its work
	Waiting  string `json:"waiting"`  // what the agent waits for, in one sentence; empty if nothing
	Insecure bool   `json:"insecure"` // any host may join this cluster, see cluster.insecure_autojoin
}

// Member is a host of the cluster.
type Member struct {
	ID      string `json:"id"`
	Name    string `json:"name"`
	Address string `json:"address"`
	Role    string `json:"role"`  // server or client; empty if the agent does not run its Consul
	State   string `json:"state"` // StateAlive, StateSuspect or StateGone
	Self    bool   `json:"self"`
	Version string `json:"version"` // of the host's agent
	Behind  bool   `json:"behind"`  // a living host runs a newer version
}

// Token is the secret that lets a host join the cluster.
type Token struct {
	Token string `json:"token"`
}

// BootstrapRequest asks for a new cluster. If Token is empty, the agent uses the token on
// this host, or creates one if there is none.
type BootstrapRequest struct {
	Token string `json:"token,omitempty"`
}

// JoinRequest asks to join a cluster. If Token is empty, the agent uses the token on this
// host.
type JoinRequest struct {
	Token     string   `json:"token,omitempty"`
	Addresses []string `json:"addresses,omitempty"` // of hosts in the cluster, one is enough; if empty, mDNS finds them
}

// LeaveRequest asks to leave the cluster. Force releases the endpoints of this host.
type LeaveRequest struct {
	Force bool `json:"force,omitempty"`
}

// BindRequest names the interface. If Iface is empty, the agent selects one.
type BindRequest struct {
	Iface string `json:"iface"`
}

// maxJoin bounds the number of addresses in one request.
const maxJoin = 64

// ParseJoin parses the IPv4 addresses of a JoinRequest. The list may be empty.
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
