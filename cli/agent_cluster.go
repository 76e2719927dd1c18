package cli

import (
	"context"
	"log/slog"
	"net/http"
	"os"
	"slices"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/cluster"
	"github.com/socketplane/socketplane/agent/firewall"
	"github.com/socketplane/socketplane/agent/link"
	"github.com/socketplane/socketplane/agent/state"
)

// newKeeper returns the keeper of this host's place in the cluster.
func newKeeper(s Settings, id string, links *link.Links, logger *slog.Logger) (*cluster.Keeper, error) {
	return cluster.NewKeeper(cluster.KeeperConfig{
		Dir: s.Host.StateDir, HostID: id, HostName: s.Host.Name, Configured: s.Consul.Address != "",
		Iface: s.Cluster.Iface, Ports: cluster.DefaultPorts(), SessionTTL: s.Cluster.SessionTTL.Duration, Logger: logger,
		TokenFile: s.Cluster.TokenFile, TokenFileMust: s.tokenFileMust, InsecureAutojoin: s.Cluster.InsecureAutojoin,
		Underlay: func(iface string) (cluster.Underlay, error) {
			u, err := links.Underlay(iface)
			return cluster.Underlay{Iface: u.Interface, Addr: u.Addr}, err
		},
	})
}

// enterPlace opens the store for this host's place in the cluster: the configured Consul,
// the Consul that the agent runs, or the file of a host without a cluster. While it waits,
// it reports the reason on the socket. The returned end function stops what enterPlace
// started. If ctx ends, the store may be nil without an error.
func enterPlace(ctx context.Context, s Settings, id string, links *link.Links, keeper *cluster.Keeper, logger *slog.Logger) (store state.Store, end func(), err error) {
	stage, err := serveWaiting(ctx, s, id, keeper, logger)
	if err != nil {
		return nil, nil, err
	}
	defer stage()
	defer readyAfter(placePatience, logger)()
	if err := keeper.FindUnderlay(ctx); err != nil {
		return nil, nil, unlessAnew(ctx, err)
	}
	if err := keeper.Leftovers(); err != nil {
		return nil, nil, err
	}
	if !keeper.Managed() {
		store, err := openStore(s, keeper, logger)
		if err != nil {
			return nil, nil, err
		}
		return store, func() { _ = store.Close() }, nil
	}
	// Before anything waits, because Docker's containers may be running already.
	if place, err := keeper.Place(ctx); err == nil {
		err = firewall.New(logger).Close(ctx, firewall.Rules{
			Underlay: carriers(ctx, s, links, place), Consul: consulPorts(keeper), GatewayPrefix: link.GatewayPrefix, EndpointPrefix: link.HostPrefix,
		})
		if err != nil {
			logger.Error("the cluster's ports are open to containers; trying on", "err", err)
		}
	}
	// Before this host's Consul sends anything under its name.
	if err := keeper.CheckIdentity(ctx); err != nil {
		return nil, nil, unlessAnew(ctx, err)
	}
	stop, err := keeper.StartConsul(ctx)
	if err != nil {
		return nil, nil, err
	}
	store, err = state.OpenConsul(state.ConsulConfig{Address: keeper.ConsulAddress(), Logger: logger})
	if err != nil {
		stop()
		return nil, nil, err
	}
	end = func() {
		keeper.Finish(ctx, store)
		_ = store.Close()
		stop()
	}
	if err := keeper.Settle(ctx, store); err != nil || ctx.Err() != nil {
		end()
		return nil, nil, unlessAnew(ctx, err)
	}
	return store, end, nil
}

// carriers returns the interfaces on which packets to this host's tunnel address arrive.
func carriers(ctx context.Context, s Settings, links *link.Links, place api.Place) []string {
	up, err := links.Uplinks(ctx, place.Address)
	if err != nil || up.Underlay == "" {
		return []string{place.Iface}
	}
	for _, name := range s.Network.Uplinks {
		if !slices.Contains(up.Names, name) {
			up.Names = append(up.Names, name)
		}
	}
	return up.Carriers()
}

// unlessAnew returns nil instead of err if ctx has ended, because the end of a life is no
// failure.
func unlessAnew(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// openStore opens the configured Consul, or the file of a host without a cluster.
func openStore(s Settings, keeper *cluster.Keeper, logger *slog.Logger) (state.Store, error) {
	if s.Consul.Address == "" {
		return state.OpenEmbedded(keeper.StatePath())
	}
	return state.OpenConsul(state.ConsulConfig{
		Address: s.Consul.Address, Token: s.Consul.Token, TokenFile: s.Consul.TokenFile,
		CAFile: s.Consul.CAFile, CertFile: s.Consul.CertFile, KeyFile: s.Consul.KeyFile, Logger: logger,
	})
}

// serveWaiting serves the socket while the agent waits for its place.
func serveWaiting(ctx context.Context, s Settings, id string, keeper *cluster.Keeper, logger *slog.Logger) (end func(), err error) {
	l, err := listen(s.API.Socket)
	if err != nil {
		return nil, err
	}
	status := func(context.Context) (api.Status, error) {
		st := api.Status{
			Version: Version(), PID: os.Getpid(), Bridge: s.OVS.Bridge, Problems: []string{}, Peers: []api.Peer{},
			Host: api.Host{ID: id, Name: s.Host.Name},
		}
		if keeper.Managed() { // the user may need Consul's address to find out why the agent waits
			st.Store = "consul " + keeper.ConsulAddress()
		}
		if why := keeper.Waiting(); why != "" {
			st.Problems = append(st.Problems, why)
		}
		st.Problems = append(st.Problems, keeper.Problems()...)
		return st, nil
	}
	server := apiServer(api.Recorded(withCluster(keeper, api.NewWaitingHandler(status, keeper.Waiting, logger), logger), logger))
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := serve(ctx, server, l); err != nil {
			logger.Error("the agent's socket cannot be served while it waits", "err", err)
		}
	}()
	return func() { cancel(); <-done }, nil
}

// placed is the agent's service. It adds the problems of this host's place to the status.
type placed struct {
	api.Service
	keeper *cluster.Keeper
}

// Status implements api.Service.
func (p placed) Status(ctx context.Context) (api.Status, error) {
	st, err := p.Service.Status(ctx)
	if err == nil {
		st.Problems = append(p.keeper.Problems(), st.Problems...)
	}
	return st, err
}

// withCluster serves the cluster calls in addition to the calls of rest.
func withCluster(place api.ClusterService, rest http.Handler, logger *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	calls := api.NewClusterHandler(place, logger)
	mux.Handle("/v1/cluster", calls)
	mux.Handle("/v1/cluster/", calls)
	mux.Handle("/", rest)
	return mux
}
