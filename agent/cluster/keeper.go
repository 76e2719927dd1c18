package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"sync"
	"time"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/state"
)

// ErrAnew ends one life of the agent in favour of the next, in the same
// process: this host's place in the cluster has changed.
var ErrAnew = errors.New("the agent begins anew")

// Underlay is the interface of tunnels and cluster, and its address.
type Underlay struct {
	Iface string
	Addr  netip.Addr
}

// KeeperConfig is what a Keeper is made of.
type KeeperConfig struct {
	Dir        string // the state directory
	HostID     string // UUID
	HostName   string
	Configured bool                                 // consul.address is set: nothing is managed
	Iface      string                               // by the settings; empty: found
	Underlay   func(iface string) (Underlay, error) // finds the interface when iface is empty
	Ports      Ports
	SessionTTL time.Duration // of this host's session, see NewMember

	TokenFile        string // where an administrator leaves the cluster's token
	TokenFileMust    bool   // it was named: that it is missing is a problem
	InsecureAutojoin bool   // without a token the public one is used

	Logger *slog.Logger
}

// Endpoints is what a Keeper needs of the agent.
type Endpoints interface {
	Endpoints(ctx context.Context) ([]api.Endpoint, error)
	Release(ctx context.Context, id string) error
	Status(ctx context.Context) (api.Status, error)
}

// Keeper keeps this host's place in its cluster, over the lives of the agent. It
// implements api.ClusterService.
type Keeper struct {
	KeeperConfig

	mu         sync.Mutex // guards what follows
	place      Place
	at         Underlay // of this life; zero: not found yet
	life       int
	ready      func() bool // the agent of this life is
	waiting    string
	anew       context.CancelCauseFunc
	ending     ending
	store      state.Store
	agent      Endpoints
	process    *Consul // of this life
	public     bool    // this host's cluster is of the public token
	sought     string  // how the search for the cluster goes; empty: nothing to tell
	soughtKind string
	changes    gate // one change of the place at a time
	turns      gate // held while the servers are changed; entered before changes

	consul consulClient
}

// ending is what has to be done when a life ends, beside stopping.
type ending struct {
	leave bool          // the cluster
	seats state.Session // holds the servers as they are, while a server leaves; nil: not needed
	move  bool          // to another address
}

var _ api.ClusterService = (*Keeper)(nil)

// errChanging refuses a change of the place while another takes force.
var errChanging = api.Errorf(api.CodeUnavailable, "the agent is stopping or restarting; try again")

// NewKeeper reads this host's place.
func NewKeeper(cfg KeeperConfig) (*Keeper, error) {
	place, err := LoadPlace(cfg.Dir)
	if err != nil {
		return nil, err
	}
	if cfg.Configured && place.InCluster() {
		return nil, fmt.Errorf("consul.address is set, and this host is in cluster %s, whose Consul the agent runs; remove the setting, leave with: socketplane cluster leave, then set it", place.Cluster)
	}
	k := &Keeper{KeeperConfig: cfg, place: place, changes: newGate(), turns: newGate()}
	k.consul = newConsulClient(filepath.Join(k.consulDir(), socketName))
	if why := k.Insecure(); why != "" {
		k.Logger.Warn(why)
	}
	return k, nil
}

// Begin starts a life of the agent: its context ends when the place changes.
func (k *Keeper) Begin(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.anew, k.ending = cancel, ending{}
	k.store, k.agent, k.at, k.waiting, k.ready, k.process, k.public = nil, nil, Underlay{}, "", nil, nil, false
	return ctx, func() { cancel(context.Canceled) }
}

// End says whether the life whose context has ended is followed by another.
func (k *Keeper) End(ctx context.Context) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.anew = nil
	if !errors.Is(context.Cause(ctx), ErrAnew) {
		return false
	}
	k.life++
	return true
}

// Serve says who answers in this life.
func (k *Keeper) Serve(store state.Store, agent Endpoints, ready func() bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.store, k.agent, k.ready, k.waiting = store, agent, ready, ""
}

// Managed says whether this host's Consul is run by us in this life.
func (k *Keeper) Managed() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.place.InCluster()
}

// Waiting says what the agent waits for; empty: nothing.
func (k *Keeper) Waiting() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.waiting
}

func (k *Keeper) wait(why string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.waiting = why
}

// consulDir is where the files of our Consul lie.
func (k *Keeper) consulDir() string { return consulDir(k.Dir) }

func consulDir(stateDir string) string { return filepath.Join(stateDir, "consul") }

// ConsulAddress is where our Consul answers: to root, by a unix socket.
func (k *Keeper) ConsulAddress() string { return socketURL(k.consul.socket) }

// StatePath is where the state of a host alone lies.
func (k *Keeper) StatePath() string { return filepath.Join(k.Dir, "state.db") }

// change saves another place and, if anew is said, ends this life. The caller
// holds changes.
func (k *Keeper) change(place Place, end ending, anew bool) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if anew && k.anew == nil {
		return errChanging
	}
	if err := place.Save(k.Dir); err != nil {
		return err
	}
	k.place = place
	if anew {
		k.ending = end
		k.anew(ErrAnew)
		k.anew = nil
	}
	return nil
}

func (k *Keeper) current() (place Place, at Underlay, store state.Store, agent Endpoints) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.place, k.at, k.store, k.agent
}

// Place implements api.ClusterService.
func (k *Keeper) Place(context.Context) (api.Place, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	p := api.Place{
		Is: k.place.Is, Cluster: k.place.Cluster, Server: k.place.Server, Iface: k.at.Iface, Address: k.at.Addr,
		Life: k.life, Waiting: k.waiting, Ready: k.anew != nil && k.ready != nil && k.ready(), Changing: k.anew == nil, Insecure: k.public,
	}
	if k.Configured {
		p.Is = api.PlaceConfigured
	}
	return p, nil
}

// Token implements api.ClusterService.
func (k *Keeper) Token(context.Context) (api.Token, error) {
	if k.Configured {
		return api.Token{}, k.errConfigured("there is no token")
	}
	t, err := LoadToken(k.Dir)
	if err != nil {
		return api.Token{}, err
	}
	if t.IsZero() {
		return api.Token{}, api.Errorf(api.CodeNotFound, "this host is in no cluster and has no token; begin one with: socketplane cluster bootstrap")
	}
	return api.Token{Token: t.Secret()}, nil
}

func (k *Keeper) errConfigured(what string) error {
	return api.Errorf(api.CodeConflict, "%s: consul.address is set, so all hosts that use that Consul form the cluster; remove the setting to have the agent run one", what)
}
