// Package ovs manages the integration bridge. It creates the bridge, its ports and its
// tunnels in OVSDB, with one transaction per call. It keeps the bridge's OpenFlow tables
// equal to a Forwarding. It detects a lost ovsdb-server and an ovs-vswitchd that
// restarted without its flows. It never changes what others configured on the switch and
// never creates network interfaces. It has no knowledge of network records, containers or
// the cluster.
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

// Defaults of Config. The packages of all distributions put the sockets into
// DefaultRunDir.
const (
	DefaultRunDir = "/run/openvswitch"
	DefaultBridge = "docker0-ovs"
)

// Sentinel errors. The methods wrap them in their errors.
var (
	ErrUnavailable = errors.New("Open vSwitch cannot be reached") //nolint:staticcheck // a proper name
	ErrForeign     = errors.New("port was not made by socketplane")
)

// Timeouts for calls whose context has no deadline, and for internal operations.
const (
	callTimeout = 10 * time.Second // one OVSDB transaction
	// sessionTimeout is ten times the restart time of ovsdb-server.
	sessionTimeout = 3 * time.Second  // value of Switch.sessionTimeout, except in tests
	flowTimeout    = 30 * time.Second // one run of ovs-ofctl: comparing 40,000 flows takes 2 s on two busy cores
	openTimeout    = 10 * time.Second // until ovs-vswitchd has created the bridge
	portTimeout    = 5 * time.Second  // until ovs-vswitchd has opened a port: 4-5 ms when idle
)

// Config selects the switch. The zero value selects the host's own.
type Config struct {
	RunDir   string       // directory of the sockets of ovs-vswitchd; empty: DefaultRunDir
	Socket   string       // OVSDB as unix:PATH or tcp:IP:PORT; empty: db.sock in RunDir
	Bridge   string       // name of the integration bridge; empty: DefaultBridge
	Datapath string       // system or netdev; empty: chosen by what the switch and the kernel support
	Logger   *slog.Logger // nil: no logging
}

// Switch is the integration bridge of this host. It is safe for concurrent use.
type Switch struct {
	cfg   Config
	log   *slog.Logger
	ofctl string // path of ovs-ofctl

	sessionTimeout time.Duration // how long a call waits while OVSDB is away

	changed chan struct{} // cap 1
	remake  chan struct{} // cap 1: the bridge's row differs from the wanted one
	wake    broadcast     // a row of the cache or the connection changed

	mu       sync.Mutex
	datapath string
	session  *session          // nil while OVSDB is away
	wrote    map[string]string // table and port name -> fingerprint of our last write
	removing map[string]bool   // ports whose deletion we requested and have not yet seen
	reserved map[int]string    // ofport -> name of a port that got it and is not yet in the cache
	busy     map[string]chan struct{}

	flows   flowMemory
	telling telling
}

// Open connects to OVSDB, creates or corrects the bridge, and waits until ovs-vswitchd
// has applied it. The errors tell the user what to do. The error wraps ErrUnavailable if
// Open vSwitch does not run.
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

// Run keeps the connection to OVSDB and watches ovs-vswitchd until ctx ends. Then it
// returns nil.
func (s *Switch) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.keepConnected(ctx) })
	g.Go(func() error { return s.watchFlows(ctx) })
	return g.Wait()
}

// Close closes the connection to OVSDB, and ends the goroutine that tells members of new
// addresses. The switch continues to forward.
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

// Changed returns a channel that receives when the switch may differ from the desired
// state. This happens when OVSDB came back, ovs-vswitchd restarted or lost flows, or
// somebody else changed the bridge or a port of ours. Notifications are coalesced.
// Receivers should apply the whole desired state again.
func (s *Switch) Changed() <-chan struct{} { return s.changed }

// Connected reports whether the connection to OVSDB is up.
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

// Datapath returns DatapathSystem or DatapathNetdev.
func (s *Switch) Datapath() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.datapath
}

// Bridge returns the name of the integration bridge.
func (s *Switch) Bridge() string { return s.cfg.Bridge }

func (s *Switch) notifyChanged() { poke(s.changed) }

// poke sends to a channel of capacity one unless it is full.
func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// broadcast wakes all waiting goroutines at once. The zero value is ready to use.
type broadcast struct {
	mu sync.Mutex
	ch chan struct{}
}

// next returns a channel that the next call of fire closes.
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
