// Package agent owns the order of things on a host: how an endpoint is
// attached and detached, and how what is there is brought to what should be.
// It puts the other packages to work and never talks to the kernel, Open
// vSwitch or the store's server itself.
package agent

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/cluster"
	"github.com/socketplane/socketplane/agent/link"
	"github.com/socketplane/socketplane/agent/nat"
	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/ipam"
	"github.com/socketplane/socketplane/ovs"
)

// Store is what the agent needs of the key-value state.
type Store interface {
	Get(ctx context.Context, key string) (state.Entry, error)
	List(ctx context.Context, prefix string) ([]state.Entry, error)
	CompareAndSet(ctx context.Context, key string, value []byte, version uint64) (uint64, error)
	Delete(ctx context.Context, key string, version uint64) error
	Txn(ctx context.Context, ops []state.Op) error
	Wait(ctx context.Context, prefix string, index uint64) (state.Snapshot, error)
	String() string
}

// Networks makes and finds networks.
type Networks interface {
	Create(ctx context.Context, name string, subnet netip.Prefix) (network.Record, bool, error)
	EnsureDefault(ctx context.Context) (network.Record, error)
	Get(ctx context.Context, name string) (network.Record, error)
	Delete(ctx context.Context, name string) error
}

// Addresses hands out the addresses of a subnet, by owner.
type Addresses interface {
	Allocate(ctx context.Context, pool ipam.Pool, owner string) (netip.Addr, error)
	AllocateAddr(ctx context.Context, pool ipam.Pool, addr netip.Addr, owner string) error
	Release(ctx context.Context, pool ipam.Pool, owner string) error
	List(ctx context.Context, subnet netip.Prefix) ([]ipam.Allocation, error)
}

// Switch is the integration bridge.
type Switch interface {
	Bridge() string
	Datapath() string
	Changed() <-chan struct{}
	Connected() bool
	AddPort(ctx context.Context, p ovs.Port) (int, error)
	RemovePort(ctx context.Context, name string) error
	Ports(ctx context.Context) ([]ovs.Port, error)
	SetTunnels(ctx context.Context, tunnels []ovs.Tunnel) (map[string]int, error)
	SetForwarding(ctx context.Context, f ovs.Forwarding) error
	Resync(ctx context.Context, f ovs.Forwarding) error
	PinWay(ctx context.Context, w ovs.Way) error
	UnpinWay(ctx context.Context, peer netip.Addr) error
}

// Links is the kernel's network devices.
type Links interface {
	EnsureVeth(ctx context.Context, v link.Veth) error
	DeleteVeth(ctx context.Context, host string) error
	Configure(ctx context.Context, peer, nsPath string, c link.Config) error
	Exists(host string) (bool, error)
	HostVeths() ([]string, error)
	EnsureGateway(ctx context.Context, g link.Gateway) error
	Neighbor(ctx context.Context, addr netip.Addr) (link.Neighbor, error)
}

// NAT is the host's packet filter.
type NAT interface {
	Set(ctx context.Context, r nat.Rules) error
}

// Config is what an Agent is made of.
type Config struct {
	Self      func() (cluster.Host, error) // this host as it is now
	Store     Store
	Catalog   Networks
	Addresses Addresses
	Switch    Switch
	Links     Links
	NAT       NAT
	Logger    *slog.Logger
}

// Agent attaches endpoints on this host and keeps the host as the cluster's
// state says. It implements api.Service.
type Agent struct {
	Config
	self cluster.Host // id, name and VTEP as at start

	view     *view     // the cluster as last seen
	table    *table    // the endpoints of this host
	segments *segments // the networks used here
	ways     ways      // to the peers, as the userspace datapath was told

	forgetful atomic.Bool // the switch was restarted and must be told the ways anew
	ids       keyLocks    // one attach or detach at a time for an endpoint

	forwarding *coalescer            // applies flows; many attaches share one run
	compare    atomic.Bool           // the next run reads the switch's flows too
	publishers map[string]*publisher // network -> writer of our list
	pubMu      sync.Mutex

	kick     chan struct{} // converge soon
	known    chan struct{} // closed when loaded becomes true
	mu       sync.Mutex    // guards what follows
	tunnels  map[string]int
	problems []string
	ready    bool
	loaded   bool // the endpoints of an earlier life were read from the store
}

var _ api.Service = (*Agent)(nil)

// applyTimeout bounds one run of the flow programming. A healthy switch needs
// a fifth of a second for 4,000 flows.
const applyTimeout = 10 * time.Second

// New makes an agent. It does nothing until Run, but for what callers ask.
func New(cfg Config) (*Agent, error) {
	self, err := cfg.Self()
	if err != nil {
		return nil, err
	}
	a := &Agent{
		Config:     cfg,
		self:       self,
		view:       newView(self.ID),
		table:      newTable(),
		segments:   newSegments(),
		publishers: map[string]*publisher{},
		kick:       make(chan struct{}, 1),
		known:      make(chan struct{}),
	}
	a.forwarding = newCoalescer(applyTimeout, a.applyForwarding)
	return a, nil
}

// owner is how this host's endpoint id is written beside an address: ids are
// chosen per host, addresses belong to the cluster.
func (a *Agent) owner(id string) string { return a.self.ID + "/" + id }

// userspace says whether packets pass the switch's userspace datapath.
func (a *Agent) userspace() bool { return a.Switch.Datapath() == "netdev" }

func pool(r network.Record) ipam.Pool { return ipam.Pool{Subnet: r.Subnet, Gateway: r.Gateway} }

func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
