package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/socketplane/socketplane/agent"
	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/cluster"
	"github.com/socketplane/socketplane/agent/docker"
	"github.com/socketplane/socketplane/agent/docker/driver"
	"github.com/socketplane/socketplane/agent/firewall"
	"github.com/socketplane/socketplane/agent/link"
	"github.com/socketplane/socketplane/agent/nat"
	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/agent/pathmtu"
	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/cli/setup"
	"github.com/socketplane/socketplane/ipam"
	"github.com/socketplane/socketplane/ovs"
)

// openTimeout bounds the wait for Open vSwitch at the start of the agent.
const openTimeout = 15 * time.Second

// runAgent runs the agent until ctx ends, as a sequence of lives. Each life runs in the
// place in the cluster that the previous one chose. The end of a life removes nothing, so
// no packet is lost between lives.
func runAgent(ctx context.Context, s Settings, logger *slog.Logger) error {
	if os.Geteuid() != 0 {
		return errors.New("the agent changes the host's network and must be run as root; try: sudo socketplane agent run")
	}
	// Only one agent per host, because two would undo each other's changes.
	if err := prepareStateDir(s.Host.StateDir); err != nil {
		return err
	}
	unlock, err := lockState(s.Host.StateDir)
	if err != nil {
		return err
	}
	defer unlock()
	release, err := lockBridge(lockDir, s.OVS.Bridge)
	if err != nil {
		return err
	}
	defer release()
	id, err := cluster.LoadID(s.Host.StateDir)
	if err != nil {
		return err
	}
	// Before anything on the host is changed.
	if err := (&setup.Host{}).Remember(s.Host.StateDir, s.Docker.DaemonJSON); err != nil {
		return fmt.Errorf("record how this host was: %w", err)
	}
	links := link.New(logger)
	defer links.Close()
	keeper, err := newKeeper(s, id, links, logger)
	if err != nil {
		return err
	}
	for {
		life, cancel := keeper.Begin(ctx)
		err := runLife(life, s, id, links, keeper, logger)
		cancel()
		if anew := keeper.End(life); !anew || err != nil || ctx.Err() != nil {
			return err
		}
		logger.Info("the agent restarts, in its new place in the cluster")
	}
}

// prepareStateDir creates the state directory, and restricts it to root like the unit
// does. It does not change the mode of a directory that is not named socketplane, because
// that may contain more than the state.
func prepareStateDir(dir string) error {
	err := os.MkdirAll(dir, 0o700)
	if err == nil && filepath.Base(dir) == "socketplane" {
		err = os.Chmod(dir, 0o700)
	}
	if err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	return nil
}

// runLife assembles the agent and runs it until ctx ends.
func runLife(ctx context.Context, s Settings, id string, links *link.Links, keeper *cluster.Keeper, logger *slog.Logger) error {
	store, end, err := enterPlace(ctx, s, id, links, keeper, logger)
	if err != nil || store == nil {
		return err
	}
	defer end()

	// Fails if the switch is not available, because the agent can do nothing without it.
	openCtx, cancel := context.WithTimeout(ctx, openTimeout)
	sw, err := ovs.Open(openCtx, ovs.Config{
		Socket: "unix:" + s.OVS.Socket, Bridge: s.OVS.Bridge, Datapath: s.OVS.Datapath, Logger: logger,
	})
	cancel()
	if err != nil {
		return err
	}
	defer sw.Close()

	if err := links.PrepareHost(sw.Datapath() == ovs.DatapathNetdev); err != nil {
		return err
	}
	filter, err := nat.New(logger)
	if err != nil {
		return err
	}
	denyForward, err := deniesForward(ctx, s, filter)
	if err != nil {
		return err
	}
	boot, err := cluster.BootID()
	if err != nil {
		return err
	}
	paths := pathmtu.New(filepath.Join(s.Host.StateDir, "path-mtu.json"), func(ctx context.Context, mac string) (pathmtu.Wire, error) {
		return sw.OpenProber(ctx, mac)
	}, logger)
	host := thisHost{id: id, name: s.Host.Name, boot: boot, keeper: keeper, links: links, sw: sw, paths: paths}
	self := func() (cluster.Host, error) { return host.describe(ctx) }
	member := cluster.NewMember(store, self, s.Cluster.SessionTTL.Duration, logger)

	allowed, err := s.allowed()
	if err != nil {
		return err
	}
	claims := nat.NewClaims()
	defer claims.Close()
	a, err := agent.New(agent.Config{
		Self:  self,
		Store: store,
		Catalog: network.New(network.Config{
			Store: store, Logger: logger, Routes: hostRoutes(store, self), Host: id, Alive: aliveHosts(store),
		}),
		Addresses: ipam.New(store, id),
		Switch:    sw,
		Links:     links,
		NAT:       filter,
		Firewall:  firewall.New(logger),
		HostPorts: claims,
		Paths:     paths,
		Logger:    logger,

		Allowed:     allowed,
		ConsulPorts: consulPorts(keeper),
		Uplinks:     s.Network.Uplinks,
		DenyForward: denyForward,

		Membership:   member,
		Detector:     cluster.NewDetector(s.Cluster.DrainAfter.Duration, store.LiveNodes),
		ReclaimAfter: s.Cluster.ReclaimAfter.Duration,
	})
	if err != nil {
		return err
	}
	// Before the socket exists, so that whoever sees the socket can run containers. But a
	// dockerd that starts at the same moment may itself wait for the socket, with the
	// containers that it restarts.
	runtime := installRuntime(s, logger)
	registered := registerRuntime(ctx, runtime)
	var legacyListener netListener
	if s.API.Legacy {
		if legacyListener, err = listenLegacy(); err != nil {
			return err
		}
		if err := makeNetNSDir(netnsDir); err != nil {
			logger.Warn("a script of 2015 will fail to stop containers", "err", err)
		}
	}
	listener, err := listen(s.API.Socket)
	if err != nil {
		return err
	}
	var pluginListener netListener
	if s.Docker.Enabled {
		if pluginListener, err = listen(driver.PluginSocket); err != nil {
			return err
		}
	}
	legacy, err := legacyHandler(s, a, keeper, logger)
	if err != nil {
		return err
	}
	server := apiServer(api.Recorded(withCluster(keeper, withLegacy(api.NewHandler(placed{a, keeper}, logger), legacy), logger), logger))
	keeper.Serve(store, a, a.Ready)

	// All goroutines of the agent. The first that fails ends the others.
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return sw.Run(ctx) })
	g.Go(func() error { return member.Run(ctx) })
	g.Go(func() error { return a.Run(ctx) })
	g.Go(func() error { return keeper.Watch(ctx) })
	g.Go(func() error { return keeper.Discover(ctx) })
	g.Go(func() error { return serve(ctx, server, listener) })
	if s.API.Legacy {
		g.Go(func() error { return serveLegacy(ctx, legacy, legacyListener) })
	}
	if !registered {
		g.Go(func() error { return keepRegistering(ctx, runtime) })
	}
	if s.Docker.Enabled {
		plugin := driver.New(driver.Config{
			Service: a, Docker: "unix://" + s.Docker.Socket, Changed: a.NetworksChanged(), Logger: logger,
		})
		g.Go(func() error { return serve(ctx, pluginServer(plugin.Handler()), pluginListener) })
		g.Go(func() error { return plugin.Run(ctx) })
		g.Go(func() error {
			return docker.NewWatcher(docker.WatcherConfig{
				Socket: s.Docker.Socket, Logger: logger,
				Followers: []docker.Follower{docker.NewReleaser(a, logger), plugin},
				Slow:      []docker.Follower{docker.NewReviver(logger)},
			}).Run(ctx)
		})
	}
	logger.Info("agent started", "version", Version(), "host", s.Host.Name, "id", id,
		"store", store.String(), "bridge", sw.Bridge(), "datapath", sw.Datapath())
	// The sockets exist, so Docker may start even if the store is not available.
	ready(logger)
	err = g.Wait()
	logger.Info("agent stopped")
	return err
}

// consulPorts returns the ports that the agent's Consul uses between hosts. It returns nil
// if the agent runs no Consul.
func consulPorts(keeper *cluster.Keeper) []firewall.Port {
	if !keeper.Managed() {
		return nil
	}
	return []firewall.Port{
		{Proto: unix.IPPROTO_TCP, Number: uint16(keeper.Ports.Server)},
		{Proto: unix.IPPROTO_TCP, Number: uint16(keeper.Ports.Gossip)},
		{Proto: unix.IPPROTO_UDP, Number: uint16(keeper.Ports.Gossip)},
	}
}

// deniesForward reports whether the policy of FORWARD should be DROP: only on a host that
// did not forward packets before the agent enabled it. It records the previous policy.
func deniesForward(ctx context.Context, s Settings, filter *nat.NAT) (bool, error) {
	host := &setup.Host{}
	wasOff, err := host.ForwardingWasOff(s.Host.StateDir)
	if err != nil || !wasOff || !s.Network.DenyForward {
		return false, err
	}
	policy, err := filter.ForwardPolicy(ctx)
	if err != nil {
		return false, err
	}
	return true, host.RememberForwardPolicy(s.Host.StateDir, policy)
}

// thisHost builds this host's record in the cluster.
type thisHost struct {
	id, name, boot string
	keeper         *cluster.Keeper
	links          *link.Links
	sw             *ovs.Switch
	paths          *pathmtu.Paths
}

// describe returns the current record of the host.
func (h thisHost) describe(ctx context.Context) (cluster.Host, error) {
	underlay, err := h.links.Underlay(h.keeper.WantIface())
	if err != nil {
		return cluster.Host{}, err
	}
	routes, err := h.links.Routes(ctx)
	if err != nil {
		return cluster.Host{}, err
	}
	addrs, err := h.links.Addresses(ctx)
	if err != nil {
		return cluster.Host{}, err
	}
	return cluster.Host{
		ID: h.id, Name: h.name, VTEP: underlay.Addr, MTU: h.paths.Clamp(underlay.MTU), Routes: routes, Addrs: addrs,
		Version: Version(), Capabilities: cluster.Capabilities(), Datapath: h.sw.Datapath(), Boot: h.boot,
	}, nil
}

// hostRoutes returns a function that lists the routes of all hosts. For this host it reads
// the current ones.
func hostRoutes(store state.Store, self func() (cluster.Host, error)) func(context.Context) ([]network.HostRoute, error) {
	return func(ctx context.Context) ([]network.HostRoute, error) {
		hosts, err := cluster.List(ctx, store)
		if err != nil {
			return nil, err
		}
		me, err := self()
		if err != nil {
			return nil, err
		}
		hosts = append(hosts, me)
		named, seen := namesakes{}, map[string]bool{} // this host is listed twice
		for _, h := range hosts {
			if !seen[h.ID] {
				seen[h.ID] = true
				named[h.Name]++
			}
		}
		var routes []network.HostRoute
		for _, h := range hosts {
			for _, p := range h.Routes {
				routes = append(routes, network.HostRoute{Host: named.shown(h.Name, h.ID), Prefix: p})
			}
		}
		return routes, nil
	}
}

// aliveHosts returns a function that reports for each host id whether its session is
// alive.
func aliveHosts(store state.Store) func(context.Context) (map[string]bool, error) {
	return func(ctx context.Context) (map[string]bool, error) {
		hosts, err := cluster.List(ctx, store)
		if err != nil {
			return nil, err
		}
		alive := map[string]bool{}
		for _, h := range hosts {
			alive[h.ID] = h.Alive
		}
		return alive, nil
	}
}

// installRuntime installs our runtime and returns how to register it with Docker. It
// returns nil if the runtime is disabled or cannot be installed.
func installRuntime(s Settings, logger *slog.Logger) *docker.Registration {
	if !s.Docker.Enabled || !s.Docker.RegisterRuntime {
		return nil
	}
	path, err := docker.InstallRuntime(filepath.Join(s.Host.StateDir, "bin"))
	if err != nil {
		logger.Error("socketplane run will not work: its runtime cannot be laid down", "err", err)
		return nil
	}
	return &docker.Registration{
		DaemonJSON: s.Docker.DaemonJSON, Host: "unix://" + s.Docker.Socket, RuntimePath: path,
		Socket: s.API.Socket, Logger: logger,
	}
}

// keepRegistering retries until dockerd answers.
func keepRegistering(ctx context.Context, r *docker.Registration) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if registerRuntime(ctx, r) {
			return nil
		}
	}
}

// registerRuntime registers our runtime with Docker. If that fails, the agent still works,
// except for new containers of `socketplane run`. It returns false if dockerd does not
// answer yet and registerRuntime must be called again.
func registerRuntime(ctx context.Context, r *docker.Registration) bool {
	if r == nil {
		return true
	}
	err := docker.Register(ctx, *r)
	if errors.Is(err, docker.ErrNotAnswering) {
		return false
	}
	if err != nil {
		r.Logger.Error("socketplane run will not work: Docker does not know the runtime", "err", err)
	}
	return true
}
