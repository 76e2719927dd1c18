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

// ErrAnew ends one run of the agent and starts the next one in the same process, because
// this host's place in the cluster has changed.
var ErrAnew = errors.New("the agent begins anew")

// Underlay is the interface for the tunnels and the cluster, with its address.
type Underlay struct {
	Iface string
	Addr  netip.Addr
}

// KeeperConfig configures a Keeper.
type KeeperConfig struct {
	Dir        string // the state directory
	HostID     string // UUID
	HostName   string
	Configured bool                                 // consul.address is set, so the agent manages no Consul
	Iface      string                               // from the settings; empty: Underlay finds it
	Underlay   func(iface string) (Underlay, error) // finds the interface if iface is empty
	Ports      Ports
	SessionTTL time.Duration // of this host's session, see NewMember

	TokenFile        string // file in which an administrator stores the cluster's token
	TokenFileMust    bool   // the settings name TokenFile, so a missing file is a problem
	InsecureAutojoin bool   // use the public token if there is no other

	Logger *slog.Logger
}

// Endpoints is the part of the agent that a Keeper uses.
type Endpoints interface {
	Endpoints(ctx context.Context) ([]api.Endpoint, error)
	Release(ctx context.Context, id string) error
	Status(ctx context.Context) (api.Status, error)
}

// Keeper manages this host's place in its cluster, across all runs of the agent in this
// process. It implements api.ClusterService.
type Keeper struct {
	KeeperConfig

	mu         sync.Mutex // guards the fields down to soughtKind
	place      Place
	at         Underlay // of this run; zero: not found yet
	life       int
	ready      func() bool // reports whether the agent of this run is ready
	waiting    string
	anew       context.CancelCauseFunc
	ending     ending
	store      state.Store
	agent      Endpoints
	process    *Consul // of this run
	public     bool    // this host's cluster uses the public token
	sought     string  // state of the search for the cluster; empty: nothing to report
	soughtKind string
	changes    gate // serializes changes of the place
	turns      gate // held while the servers change; entered before changes

	consul consulClient
}

// ending is what has to happen at the end of a run, besides stopping.
type ending struct {
	leave bool          // leave the cluster
	seats state.Session // keeps the servers unchanged while a server leaves; nil: not needed
	move  bool          // the host moves to another address
}

var _ api.ClusterService = (*Keeper)(nil)

// errChanging rejects a change of the place while another takes effect.
var errChanging = api.Errorf(api.CodeUnavailable, "the agent is stopping or restarting; try again")

// NewKeeper returns a Keeper with this host's stored place.
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

// Begin starts a run of the agent. The returned context ends when the place changes.
func (k *Keeper) Begin(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.anew, k.ending = cancel, ending{}
	k.store, k.agent, k.at, k.waiting, k.ready, k.process, k.public = nil, nil, Underlay{}, "", nil, nil, false
	return ctx, func() { cancel(context.Canceled) }
}

// End reports whether another run follows the one whose context has ended.
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

// Serve sets the store, the agent and its readiness function for this run.
func (k *Keeper) Serve(store state.Store, agent Endpoints, ready func() bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.store, k.agent, k.ready, k.waiting = store, agent, ready, ""
}

// Managed reports whether the agent manages this host's Consul in this run.
func (k *Keeper) Managed() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.place.InCluster()
}

// Waiting returns what the agent waits for, or "" if nothing.
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

// consulDir returns the directory of the managed Consul's files.
func (k *Keeper) consulDir() string { return consulDir(k.Dir) }

func consulDir(stateDir string) string { return filepath.Join(stateDir, "consul") }

// ConsulAddress returns the address of the managed Consul: a unix socket that only root
// can use.
func (k *Keeper) ConsulAddress() string { return socketURL(k.consul.socket) }

// StatePath returns the path of a standalone host's state file.
func (k *Keeper) StatePath() string { return filepath.Join(k.Dir, "state.db") }

// change saves a new place and, if anew is true, ends this run. The caller holds
// k.changes.
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
