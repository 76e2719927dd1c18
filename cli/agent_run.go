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
	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/cli/setup"
	"github.com/socketplane/socketplane/ipam"
	"github.com/socketplane/socketplane/ovs"
)

// openTimeout bounds the wait for Open vSwitch at the start.
const openTimeout = 15 * time.Second

// runAgent runs the agent until ctx ends: one life after another, each in the
// place in the cluster that the last has chosen. A life's end takes nothing
// down, so no packet is lost in between.
func runAgent(ctx context.Context, s Settings, logger *slog.Logger) error {
	if os.Geteuid() != 0 {
		return errors.New("the agent changes the host's network and must be run as root; try: sudo socketplane agent run")
	}
	// One agent a host: two would undo each other's work.
	if err := prepareStateDir(s.Host.StateDir); err != nil {
		return err
	}
	unlock, err := lockState(s.Host.StateDir)
	if err != nil {
		return err
	}
	defer unlock()
	release, err := lockBridge(s.OVS.Bridge)
	if err != nil {
		return err
	}
	defer release()
	id, err := cluster.LoadID(s.Host.StateDir)
	if err != nil {
		return err
	}
	// Before anything of the host is changed.
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

// prepareStateDir makes the state directory, and keeps it from all but root, as the
// unit does. One of another name may be for more than the state, and stays as it is.
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

// runLife puts the agent together and runs it until ctx ends.
func runLife(ctx context.Context, s Settings, id string, links *link.Links, keeper *cluster.Keeper, logger *slog.Logger) error {
	store, end, err := enterPlace(ctx, s, id, keeper, logger)
	if err != nil || store == nil {
		return err
	}
	defer end()

	// The switch must be there: without it there is nothing to agree with.
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
	host := thisHost{id: id, name: s.Host.Name, boot: boot, keeper: keeper, links: links, sw: sw}
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
	// Before the socket is there, so that who sees it can run containers. But a
	// dockerd that starts at the same moment may wait for the socket itself, with
	// the containers that it brings back.
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
	server := apiServer(withCluster(keeper, withLegacy(api.NewHandler(placed{a, keeper}, logger), legacy), logger))
	keeper.Serve(store, a, a.Ready)

	// Everything that goes on side by side; the first that fails ends all.
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
				Followers: []docker.Follower{docker.NewReleaser(a, logger), plugin, docker.NewReviver(logger)},
			}).Run(ctx)
		})
	}
	logger.Info("agent started", "version", Version(), "host", s.Host.Name, "id", id,
		"store", store.String(), "bridge", sw.Bridge(), "datapath", sw.Datapath())
	// The sockets are there: Docker may start, whether the store is there or not.
	ready(logger)
	err = g.Wait()
	logger.Info("agent stopped")
	return err
}

// consulPorts are the ports between hosts of the Consul that the agent runs.
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

// deniesForward says whether FORWARD is to drop what no rule accepts: on a host that
// forwards only since the agent has it forward. It notes how the policy was.
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

// thisHost is what makes this host's record in the cluster.
type thisHost struct {
	id, name, boot string
	keeper         *cluster.Keeper
	links          *link.Links
	sw             *ovs.Switch
}

// describe looks at the host as it is now.
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
		ID: h.id, Name: h.name, VTEP: underlay.Addr, MTU: underlay.MTU, Routes: routes, Addrs: addrs,
		Version: Version(), Capabilities: cluster.Capabilities(), Datapath: h.sw.Datapath(), Boot: h.boot,
	}, nil
}

// hostRoutes gives the routes of all hosts, this one's as they are now.
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
		named, seen := namesakes{}, map[string]bool{} // this host is there twice
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

// aliveHosts gives the ids of the hosts whose session lives.
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

// installRuntime lays our runtime down, once, and says how Docker is told of it;
// nil: it is not to be told.
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

// keepRegistering registers the runtime once dockerd answers.
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

// registerRuntime makes Docker know our runtime. An agent without it still
// serves everything but new containers of `socketplane run`. False says that
// dockerd does not answer yet and has to be asked again.
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
