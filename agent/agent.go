// Package agent owns the order of things on a host: how an endpoint is
// attached and detached, and how what is there is brought to what should be.
// It puts the other packages to work and never talks to the kernel, Open
// vSwitch or the store's server itself.
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

// Store is what the agent needs of the key-value state.
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
	Saw(record []byte)                        // what the store has as this host's record; nil: none
	Overwritten() (count int, last time.Time) // how often somebody else wrote it
}

// Detector tells which hosts are dead, and since when.
type Detector interface {
	Look(ctx context.Context, hosts []cluster.Host, believed func(id string) bool) (gone map[string]time.Time, err error)
}

// Networks makes and finds networks.
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

// Addresses hands out the addresses of a subnet, by owner.
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

// Links is the kernel's network devices.
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

// Firewall says who may speak to the ports that carry the cluster.
type Firewall interface {
	Set(ctx context.Context, r firewall.Rules) error
	Close(ctx context.Context, r firewall.Rules) error
}

// HostPorts keeps published ports of this host from others, by endpoint. Those of
// one container may hold the same.
type HostPorts interface {
	Claim(owner string, ports []nat.Port, with ...string) ([]nat.Port, error)
	Release(owner string)
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
	Firewall  Firewall
	HostPorts HostPorts
	Paths     Paths // nil: the interfaces' MTU is believed
	Logger    *slog.Logger

	Membership   Membership    // nil: this host is alone, or somebody else's business
	Detector     Detector      // nil: no host is ever taken for dead
	Allowed      Allowed       // by the settings of this host
	ReclaimAfter time.Duration // how long a dead host's addresses are kept for it

	ConsulPorts []firewall.Port // of the Consul that the agent runs; none: it runs none
	Uplinks     []string        // interfaces by which containers may leave, beside those that are found
	DenyForward bool            // FORWARD drops what no rule accepts, see nat.Rules
}

// Agent attaches endpoints on this host and keeps the host as the cluster's
// state says. It implements api.Service.
type Agent struct {
	Config
	id string // of this host

	view     *view         // the cluster as last seen
	routes   routes        // by which endpoint a prefix is reached
	contests contests      // who has which address on other hosts
	judged   judgement     // what of that this host believes
	table    *table        // the endpoints of this host
	segments *segments     // the networks used here
	holds    *holds        // addresses that wait for their endpoint
	names    keyLocks      // one attach or detach at a time for an endpoint, by the name of its port
	macs     sync.Mutex    // held while a MAC address is looked for and given
	errands  *errands      // what goes on after a call has returned
	linger   time.Duration // see lingerTime
	doubt    time.Duration // see doubtTime
	making   time.Duration // see inTheMaking
	standby  time.Duration // see standbyTime
	ways     ways          // to the peers, as the userspace datapath was told

	forgetful  atomic.Bool              // the switch was restarted and must be told the ways anew
	forwarding *coalescer               // applies flows; many attaches share one run
	missing    atomic.Bool              // vanished endpoints are being followed, see followMissed
	compare    atomic.Bool              // the next run reads the switch's flows too
	nat        *coalescer               // applies the packet filter's rules
	compareNAT atomic.Bool              // the next run looks at the rules that are there
	claimed    map[string]uint64        // while loading: networks whose addresses are looked at, with the record's version
	reaping    atomic.Bool              // dead hosts are being taken out of the store
	reclaim    atomic.Bool              // the next pass looks whether our addresses are still ours
	skipped    atomic.Uint64            // how often somebody was left out who was being changed
	planes     keyLocks                 // one at a time brings the data plane to what it should be
	publishers map[string]*publisher    // network -> writer of our list
	foreign    map[string]foreignWrites // network -> of lists that have no writer any more
	dropped    droppedWrites            // of those that foreign has no room for
	pubMu      sync.Mutex

	networks chan struct{} // see NetworksChanged
	kick     chan struct{} // converge soon
	known    chan struct{} // closed when loaded becomes true
	mu       sync.Mutex    // guards what follows
	self     cluster.Host  // as last looked at
	tunnels  map[string]int
	uplinks  link.Uplinks      // as last looked at
	bridges  []string          // Docker's whose packet filter is in nftables, as last looked at; only with DenyForward
	problems []string          // what the last pass of converge could not do
	notes    map[string]string // what is wrong and left alone, by what it is about
	blocked  map[string]bool   // networks whose list of ours in the store cannot be read
	planeAt  time.Time         // when tunnels, ports and gateways were as they should be
	flowsAt  time.Time         // when the switch's flows were compared
	ready    bool
	loaded   bool // the endpoints of an earlier life are known, and their networks
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

// NetworksChanged receives when the cluster may have got or lost a network. One
// listener can have it.
func (a *Agent) NetworksChanged() <-chan struct{} { return a.networks }

// owner is how this host's endpoint id is written beside an address: ids are
// chosen per host, addresses belong to the cluster.
func (a *Agent) owner(id string) string { return a.id + "/" + id }

// lockID waits until nobody else changes an endpoint.
func (a *Agent) lockID(ctx context.Context, id string) (unlock func(), err error) {
	unlock, err = a.names.Lock(ctx, link.HostName(id))
	if err != nil {
		return nil, translate(fmt.Errorf("the last change of %q is not finished; see: socketplane agent status: %w", id, err))
	}
	return unlock, nil
}

// userspace says whether packets pass the switch's userspace datapath.
func (a *Agent) userspace() bool { return a.Switch.Datapath() == "netdev" }

// pool is where the addresses of a network come from. A network that is used here with
// another subnet than its record says has no use for the record's range.
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
