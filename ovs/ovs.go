// Package ovs owns the integration bridge: it makes the bridge, its ports and
// its tunnels in OVSDB, each call one transaction, and keeps the bridge's
// OpenFlow tables equal to a Forwarding. It notices an ovsdb-server that went
// away and an ovs-vswitchd that came back without its flows. It never touches
// what others put on the switch, never makes network interfaces, and knows
// nothing of networks' records, containers or the cluster.
package ovs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Defaults of Config; the directory is where the packages of all
// distributions put the sockets.
const (
	DefaultRunDir = "/run/openvswitch"
	DefaultBridge = "docker0-ovs"
)

// Sentinel errors; what the methods return wraps them where they apply.
var (
	ErrUnavailable = errors.New("Open vSwitch cannot be reached") //nolint:staticcheck // a proper name
	ErrForeign     = errors.New("port was not made by socketplane")
)

// Deadlines for calls whose context has none, and for what the switch does by itself.
const (
	callTimeout = 10 * time.Second // one OVSDB transaction
	// sessionTimeout is ten times what a restart of ovsdb-server takes.
	sessionTimeout = 3 * time.Second  // Switch.sessionTimeout, but in tests
	flowTimeout    = 30 * time.Second // one run of ovs-ofctl: 2 s to compare 40,000 flows on two busy cores
	openTimeout    = 10 * time.Second // ovs-vswitchd making the bridge
	portTimeout    = 5 * time.Second  // ovs-vswitchd opening a port: 4-5 ms when idle
)

// Config says which switch to use. The zero value is the host's own.
type Config struct {
	RunDir   string       // where ovs-vswitchd keeps its sockets; empty: DefaultRunDir
	Socket   string       // OVSDB as unix:PATH or tcp:IP:PORT; empty: db.sock in RunDir
	Bridge   string       // name of the integration bridge; empty: DefaultBridge
	Datapath string       // system or netdev; empty: found from what the switch and the kernel offer
	Logger   *slog.Logger // nil: nothing is logged
}

// Switch is the integration bridge of this host. Its methods may be called
// concurrently.
type Switch struct {
	cfg   Config
	log   *slog.Logger
	ofctl string // path of ovs-ofctl

	sessionTimeout time.Duration // how long a call waits for an OVSDB that is away

	changed chan struct{} // cap 1
	remake  chan struct{} // cap 1: the bridge's row is not as it should be
	wake    broadcast     // a row of the cache, or the connection, changed

	mu       sync.Mutex
	datapath string
	session  *session          // nil while OVSDB is away
	wrote    map[string]string // port name -> fingerprint of what we last wrote
	removing map[string]bool   // ports whose deletion we asked for and have not seen
	reserved map[int]string    // ofports given out and not yet in the cache, by port name
	busy     map[string]chan struct{}

	flows   flowMemory
	telling telling
}

// Open connects to OVSDB, makes the bridge as it should be, and returns when
// ovs-vswitchd has it. The errors say what to do; ErrUnavailable when Open
// vSwitch does not run.
func Open(ctx context.Context, cfg Config) (*Switch, error) {
	if cfg.RunDir == "" {
		cfg.RunDir = DefaultRunDir
	}
	if cfg.Socket == "" {
		cfg.Socket = "unix:" + cfg.RunDir + "/db.sock"
	}
	if cfg.Bridge == "" {
		cfg.Bridge = DefaultBridge
	}
	if len(cfg.Bridge) > 15 || strings.ContainsAny(cfg.Bridge, "/ \n") { // IFNAMSIZ
		return nil, fmt.Errorf("bridge name %q is no interface name: 1 to 15 characters without spaces or slashes", cfg.Bridge)
	}
	switch cfg.Datapath {
	case "", DatapathSystem, DatapathNetdev:
	default:
		return nil, fmt.Errorf("datapath %q is unknown; use %s, %s or nothing", cfg.Datapath, DatapathSystem, DatapathNetdev)
	}
	ofctl, err := exec.LookPath("ovs-ofctl")
	if err != nil {
		return nil, fmt.Errorf("%w: ovs-ofctl is not installed; install the package openvswitch-switch: %w", ErrUnavailable, err)
	}
	s := &Switch{
		cfg:   cfg,
		log:   cfg.Logger,
		ofctl: ofctl,

		sessionTimeout: sessionTimeout,

		changed:  make(chan struct{}, 1),
		remake:   make(chan struct{}, 1),
		wrote:    map[string]string{},
		removing: map[string]bool{},
		reserved: map[int]string{},
		busy:     map[string]chan struct{}{},
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.flows.init()
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	sess, err := s.dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w at %s; is it running? start it with `systemctl start openvswitch-switch`: %w", ErrUnavailable, cfg.Socket, err)
	}
	s.setSession(sess)
	if err := s.openBridge(ctx, sess); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Switch) openBridge(ctx context.Context, sess *session) error {
	datapath := s.cfg.Datapath
	if datapath == "" {
		root, err := sess.root()
		if err != nil {
			return err
		}
		datapath = chooseDatapath(root.DatapathTypes, kernelHasDatapath)
	}
	s.mu.Lock()
	s.datapath = datapath
	s.mu.Unlock()
	if _, err := s.ensureBridge(ctx); err != nil {
		return err
	}
	return s.awaitBridge(ctx)
}

// Run keeps the connection to OVSDB and watches ovs-vswitchd until ctx ends;
// then it returns nil.
func (s *Switch) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.keepConnected(ctx) })
	g.Go(func() error { return s.watchFlows(ctx) })
	return g.Wait()
}

// Close ends the connection, and what still tells members of new addresses. The switch
// goes on forwarding.
func (s *Switch) Close() {
	s.mu.Lock()
	sess := s.session
	s.session = nil
	s.mu.Unlock()
	if sess != nil {
		sess.close()
	}
	s.telling.close()
}

// Changed receives when what the switch has may no longer be what it was told:
// OVSDB came back, ovs-vswitchd restarted or lost flows, or somebody else
// changed the bridge or a port of ours. Notices are coalesced. Apply the whole
// desired state again then.
func (s *Switch) Changed() <-chan struct{} { return s.changed }

// Connected says whether OVSDB is being listened to.
func (s *Switch) Connected() bool {
	s.mu.Lock()
	sess := s.session
	s.mu.Unlock()
	if sess == nil {
		return false
	}
	select {
	case <-sess.lost:
		return false
	default:
		return true
	}
}

// Datapath is DatapathSystem or DatapathNetdev.
func (s *Switch) Datapath() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.datapath
}

// Bridge is the name of the integration bridge.
func (s *Switch) Bridge() string { return s.cfg.Bridge }

func (s *Switch) notifyChanged() { poke(s.changed) }

// poke puts a token into a channel of capacity one, unless one is there.
func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// broadcast wakes all who wait, at once. The zero value is ready.
type broadcast struct {
	mu sync.Mutex
	ch chan struct{}
}

// next is closed by the fire after this call.
func (b *broadcast) next() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch == nil {
		b.ch = make(chan struct{})
	}
	return b.ch
}

func (b *broadcast) fire() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch != nil {
		close(b.ch)
		b.ch = nil
	}
}
