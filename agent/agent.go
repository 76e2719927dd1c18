// Package agent runs a host's part of the cluster. It decides in which order an endpoint
// is attached and detached, and reconciles the host with the desired state. It does this
// through the other packages: it never calls the kernel, Open vSwitch or the store's
// server itself.
package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/cluster"
	"github.com/socketplane/socketplane/agent/firewall"
	"github.com/socketplane/socketplane/agent/link"
	"github.com/socketplane/socketplane/agent/nat"
	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/ipam"
	"github.com/socketplane/socketplane/ovs"
)

// Store is the part of the key-value store that the agent uses.
type Store interface {
	Get(ctx context.Context, key string) (state.Entry, error)
	List(ctx context.Context, prefix string) ([]state.Entry, error)
	CompareAndSet(ctx context.Context, key string, value []byte, version uint64) (uint64, error)
	Delete(ctx context.Context, key string, version uint64) error
	Txn(ctx context.Context, ops []state.Op) error
	Wait(ctx context.Context, prefix string, index uint64) (state.Snapshot, error)
	OpenSession(ctx context.Context, name string, ttl time.Duration) (state.Session, error)
	String() string
}

// Membership is this host's registration in the cluster.
type Membership interface {
	Admitted(ctx context.Context) error
	Returned() <-chan struct{}
	Saw(record []byte)                        // the stored record of this host; nil if the store has none
	Overwritten() (count int, last time.Time) // how often another writer replaced the record
}

// Detector reports which hosts are dead, and since when.
type Detector interface {
	Look(ctx context.Context, hosts []cluster.Host, believed func(id string) bool) (gone map[string]time.Time, err error)
}

// Networks creates, finds and deletes networks.
type Networks interface {
	Create(ctx context.Context, spec network.Spec) (network.Record, bool, error)
	EnsureDefault(ctx context.Context) (network.Record, error)
	Get(ctx context.Context, name string) (network.Record, error)
	Delete(ctx context.Context, name string) error
	DeleteDockers(ctx context.Context, name string, subnet netip.Prefix) error
	UsedElsewhere(ctx context.Context, name string) error
	Reserve(ctx context.Context, subnet netip.Prefix) (netip.Prefix, error)
	Keep(ctx context.Context, subnets []netip.Prefix) error
	DockerSpec(ctx context.Context, name string, subnet netip.Prefix) (api.DockerSpec, error)
}

// Addresses allocates the addresses of a subnet. Each allocation has an owner.
type Addresses interface {
	Allocate(ctx context.Context, pool ipam.Pool, owner string) (netip.Addr, error)
	AllocateAddr(ctx context.Context, pool ipam.Pool, addr netip.Addr, owner string) error
	Transfer(ctx context.Context, pool ipam.Pool, addr netip.Addr, from, to string) error
	Release(ctx context.Context, pool ipam.Pool, owner string) error
	List(ctx context.Context, subnet netip.Prefix) ([]ipam.Allocation, error)
	ListAll(ctx context.Context) (*ipam.Listing, error)
	Forget(subnet netip.Prefix)
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
	Drops(ctx context.Context) (map[int]map[ovs.Cause]uint64, error)
	PinWay(ctx context.Context, w ovs.Way) error
}

// Links manages the kernel's network devices.
type Links interface {
	EnsureVeth(ctx context.Context, v link.Veth) error
	DeleteVeth(ctx context.Context, host string) error
	Configure(ctx context.Context, peer, nsPath string, c link.Config) error
	Inspect(host string) (link.State, error)
	Peer(host, nsPath string) (link.Peer, error)
	PeerIn(host, nsPath string) (bool, error)
	Inhabited(host string) (bool, error)
	WatchGone(ctx context.Context, gone func(host string)) error
	WatchHost(ctx context.Context, own func(port uint32) bool, changed func()) error
	OwnedBy(path string, uid uint32) (held string, release func(), err error)
	PrepareHost(userspace bool) error
	Uplinks(ctx context.Context, vtep netip.Addr) (link.Uplinks, error)
	DockersBridges(ctx context.Context) ([]string, error)
	EnsureHostEnds(ctx context.Context, ends []link.HostEnd) error
	SetMTU(ctx context.Context, name string, mtu int) error
	SetPeerMTU(ctx context.Context, host, nsPath string, mtu int) error
	HostVeths() ([]string, error)
	EnsureGateway(ctx context.Context, g link.Gateway) error
	Neighbor(ctx context.Context, addr netip.Addr) (link.Neighbor, error)
	ForgetConnections(ctx context.Context, s link.Stale) error
}

// NAT is the host's packet filter.
type NAT interface {
	Set(ctx context.Context, r nat.Rules) error
	Compare(ctx context.Context, r nat.Rules) error
	Wrote(port uint32) bool
}

// Firewall restricts who may reach the ports that carry the cluster's own traffic.
type Firewall interface {
	Set(ctx context.Context, r firewall.Rules) error
	Close(ctx context.Context, r firewall.Rules) error
}

// HostPorts reserves published ports of this host for an endpoint, the owner. Endpoints
// of the same container, named by with, may reserve the same ports.
type HostPorts interface {
	Claim(owner string, ports []nat.Port, with ...string) ([]nat.Port, error)
	Release(owner string)
}

// Config holds the dependencies and settings of an Agent.
type Config struct {
	Self      func() (cluster.Host, error) // returns the current state of this host
	Store     Store
	Catalog   Networks
	Addresses Addresses
	Switch    Switch
	Links     Links
	NAT       NAT
	Firewall  Firewall
	HostPorts HostPorts
	Paths     Paths // nil: trust the MTU of the interfaces
	Logger    *slog.Logger

	Membership   Membership    // nil: this host has no peers, or is registered by other code
	Detector     Detector      // nil: no host is ever considered dead
	Allowed      Allowed       // what the settings of this host permit
	ReclaimAfter time.Duration // how long the addresses of a dead host stay reserved for it

	ConsulPorts []firewall.Port // ports of the Consul that the agent runs; empty if it runs none
	Uplinks     []string        // interfaces through which containers may leave, in addition to the detected ones
	DenyForward bool            // the FORWARD chain drops what no rule accepts; see nat.Rules
}

// Agent attaches endpoints on this host and keeps the host in line with the state in the
// store. It implements api.Service.
type Agent struct {
	Config
	id string // of this host

	view     *view         // the last known state of the cluster
	routes   routes        // the endpoint through which each prefix is reached
	contests contests      // who holds which address on other hosts
	judged   judgement     // the part of the view that this host accepts
	table    *table        // the endpoints of this host
	segments *segments     // the networks in use on this host
	holds    *holds        // addresses reserved for endpoints that do not exist yet
	names    keyLocks      // by port name; serializes attach and detach of an endpoint
	macs     sync.Mutex    // held while choosing and assigning a MAC address
	errands  *errands      // work that continues after a call returned
	linger   time.Duration // see lingerTime
	doubt    time.Duration // see doubtTime
	making   time.Duration // see inTheMaking
	standby  time.Duration // see standbyTime
	ways     ways          // routes to the peers, as given to the userspace datapath

	forgetful  atomic.Bool              // the switch restarted and must receive the ways again
	forwarding *coalescer               // applies flows; many attaches share one run
	missing    atomic.Bool              // followMissed is already running
	compare    atomic.Bool              // the next run of forwarding also reads the flows of the switch
	nat        *coalescer               // applies the packet filter's rules
	compareNAT atomic.Bool              // the next run of nat also reads the rules in the kernel
	claimed    map[string]uint64        // only while loading: network -> record version for which its addresses were checked
	reaping    atomic.Bool              // a run that removes dead hosts from the store is in progress
	reclaim    atomic.Bool              // the next pass checks whether this host still owns its addresses
	skipped    atomic.Uint64            // how often a pass skipped an object because its lock was held
	planes     keyLocks                 // by name; serialize changes of the data plane
	publishers map[string]*publisher    // by network; writes this host's list of endpoints
	foreign    map[string]foreignWrites // by network; writes by others to lists that have no publisher any more
	dropped    droppedWrites            // the same for lists that exceed the bound of foreign
	pubMu      sync.Mutex

	networks chan struct{} // see NetworksChanged
	kick     chan struct{} // requests a pass of converge
	known    chan struct{} // closed when loaded becomes true
	mu       sync.Mutex    // guards the fields below
	self     cluster.Host  // as last read
	tunnels  map[string]int
	uplinks  link.Uplinks      // as last read
	bridges  []string          // Docker's bridges with a packet filter in nftables, as last read; only with DenyForward
	problems []string          // failures of the last converge pass
	notes    map[string]string // by subject; problems that the agent reports but cannot repair
	blocked  map[string]bool   // networks where this host's list in the store is unreadable
	planeAt  time.Time         // when tunnels, ports and gateways were last verified
	triedAt  time.Time         // when the last attempt to verify them ended
	flowsAt  time.Time         // when the flows of the switch were last compared
	ready    bool
	marked   bool // the tunnels send with firewall.TunnelMark, as last set
	loaded   bool // the endpoints from before the restart are known, and their networks
}

var _ api.Service = (*Agent)(nil)

// applyTimeout bounds one run of the flow programming. A healthy switch needs 200 ms for
// 4,000 flows.
const applyTimeout = 10 * time.Second

// New returns an Agent. It does no work in the background until Run is called.
func New(cfg Config) (*Agent, error) {
	self, err := cfg.Self()
	if err != nil {
		return nil, err
	}
	a := &Agent{
		Config:     cfg,
		id:         self.ID,
		self:       self,
		view:       newView(self.ID),
		table:      newTable(),
		segments:   newSegments(),
		holds:      newHolds(),
		errands:    newErrands(),
		linger:     lingerTime,
		doubt:      doubtTime,
		making:     inTheMaking,
		standby:    standbyTime,
		notes:      map[string]string{},
		blocked:    map[string]bool{},
		publishers: map[string]*publisher{},
		claimed:    map[string]uint64{},
		foreign:    map[string]foreignWrites{},
		networks:   make(chan struct{}, 1),
		kick:       make(chan struct{}, 1),
		known:      make(chan struct{}),
	}
	a.forwarding = newCoalescer(a.errands, applyTimeout, a.applyForwarding)
	a.nat = newCoalescer(a.errands, applyTimeout, a.applyNAT)
	return a, nil
}

// NetworksChanged returns a channel that receives a value when the cluster may have
// gained or lost a network. Only one listener may use it.
func (a *Agent) NetworksChanged() <-chan struct{} { return a.networks }

// owner returns the name under which the store records this host's endpoint id as the
// owner of an address. It contains the host because ids are unique only per host, while
// addresses belong to the cluster.
func (a *Agent) owner(id string) string { return a.id + "/" + id }

// lockID waits for the lock on an endpoint.
func (a *Agent) lockID(ctx context.Context, id string) (unlock func(), err error) {
	unlock, err = a.names.Lock(ctx, link.HostName(id))
	if err != nil {
		return nil, translate(fmt.Errorf("the last change of %q is not finished; see: socketplane agent status: %w", id, err))
	}
	return unlock, nil
}

// userspace reports whether packets pass through the userspace datapath of the switch.
func (a *Agent) userspace() bool { return a.Switch.Datapath() == "netdev" }

// pool returns the pool from which a network's addresses are allocated. It ignores the
// record's dynamic range if the range lies outside the subnet: this host may use the
// network with another subnet than the record has.
func pool(r network.Record) ipam.Pool {
	p := ipam.Pool{Subnet: r.Subnet, Gateway: r.Gateway}
	if r.Dynamic.IsValid() && r.Subnet.Contains(r.Dynamic.Addr()) && r.Dynamic.Bits() >= r.Subnet.Bits() {
		p.Range = r.Dynamic
	}
	return p
}

func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
