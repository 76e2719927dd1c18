package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"syscall"

	"github.com/google/uuid"

	"github.com/socketplane/socketplane/agent/api"
)

// Bootstrap implements api.ClusterService. It changes nothing on a host that bootstrapped
// its cluster already.
func (k *Keeper) Bootstrap(ctx context.Context, req api.BootstrapRequest) (api.Place, error) {
	if err := k.changes.enter(ctx); err != nil {
		return api.Place{}, inLine(err)
	}
	defer k.changes.leave()
	token, had, err := k.tokenFor(req.Token)
	if err != nil {
		return api.Place{}, err
	}
	place, _, _, _ := k.current()
	switch {
	case k.Configured:
		return api.Place{}, k.errConfigured("no cluster was begun")
	case place.Is == api.PlaceBootstrapped && (req.Token == "" || token == had):
		return k.Place(ctx)
	case place.InCluster():
		return api.Place{}, errInCluster(place)
	}
	if token.IsZero() {
		token = NewToken()
	}
	if err := k.prepare(); err != nil {
		return api.Place{}, err
	}
	next := Place{Is: api.PlaceBootstrapped, Cluster: uuid.NewString(), Server: true, Iface: place.Iface}
	k.Logger.Info("a cluster begins on this host", "cluster", next.Cluster)
	return k.enter(ctx, next, token, had)
}

// Join implements api.ClusterService. It changes nothing on a host that joined with this
// token before, because the token identifies the cluster.
func (k *Keeper) Join(ctx context.Context, req api.JoinRequest) (api.Place, error) {
	addrs, err := api.ParseJoin(req.Addresses)
	if err != nil {
		return api.Place{}, err
	}
	probe := k.probeAll
	if len(addrs) == 0 {
		var found *candidates
		if addrs, found, err = k.findFor(ctx, req); err != nil {
			return api.Place{}, err
		}
		probe = k.probeThese(found)
	}
	if err := k.changes.enter(ctx); err != nil {
		return api.Place{}, inLine(err)
	}
	defer k.changes.leave()
	token, had, err := k.tokenFor(req.Token)
	if err != nil {
		return api.Place{}, err
	}
	place, _, _, _ := k.current()
	switch {
	case k.Configured:
		return api.Place{}, k.errConfigured("no cluster was joined")
	case sameAgain(place, req, token == had):
		return k.Place(ctx)
	case place.InCluster():
		return api.Place{}, errInCluster(place)
	case len(addrs) == 0 && len(req.Addresses) == 0 && !token.IsZero(): // the host was in a cluster when findFor decided not to search
		return api.Place{}, errChanging
	case token.IsZero():
		return api.Place{}, api.Errorf(api.CodeInvalid, "joining needs the cluster's token; on a host of the cluster it is shown by: socketplane cluster token")
	}
	return k.join(ctx, addrs, token, had, probe)
}

// sameAgain reports whether the host is already where the request asks it to go.
func sameAgain(place Place, req api.JoinRequest, same bool) bool {
	if len(req.Addresses) == 0 {
		return place.InCluster() && same
	}
	return place.Is == api.PlaceJoined && req.Token != "" && same
}

// findFor returns the hosts for a join without addresses. It returns none if Join needs
// no search.
func (k *Keeper) findFor(ctx context.Context, req api.JoinRequest) ([]netip.Addr, *candidates, error) {
	token, _, err := k.tokenFor(req.Token)
	place, _, _, _ := k.current()
	if err != nil || k.Configured || place.InCluster() || token.IsZero() {
		return nil, nil, err
	}
	return k.find(ctx, token)
}

// asking is a function that asks hosts which cluster they are in.
type asking func(ctx context.Context, from netip.Addr, addrs []netip.Addr, token Token) (Found, error)

// join enters the cluster of addrs. The caller holds k.changes.
func (k *Keeper) join(ctx context.Context, addrs []netip.Addr, token, had Token, ask asking) (api.Place, error) {
	place, at, store, _ := k.current()
	if store == nil {
		return api.Place{}, api.Errorf(api.CodeUnavailable, "the agent is not ready to join; see: socketplane agent status")
	}
	found, err := obstacles(ctx, store)
	if err != nil {
		return api.Place{}, err
	}
	if len(found) > 0 {
		return api.Place{}, errObstacles(found)
	}
	if err := k.prepare(); err != nil {
		return api.Place{}, err
	}
	cluster, err := ask(ctx, at.Addr, addrs, token)
	if err != nil {
		return api.Place{}, err
	}
	if node, ok := cluster.Nodes[k.HostID]; ok {
		return api.Place{}, api.Errorf(api.CodeConflict, "a host with this one's identity is in the cluster, as %q; if this is a copy of its disk, stop the agent, remove %s/host-id and start it again", node.Name, k.Dir)
	}
	next := Place{Is: api.PlaceJoined, Cluster: cluster.Cluster, Peers: cluster.Hosts, Iface: place.Iface}
	k.Logger.Info("this host joins a cluster", "cluster", next.Cluster, "peers", len(next.Peers))
	return k.enter(ctx, next, token, had)
}

func errInCluster(p Place) error {
	return api.Errorf(api.CodeConflict, "this host is in cluster %s already, and clusters do not merge; leave it first: socketplane cluster leave", p.Cluster)
}

func errObstacles(found []string) error {
	return api.Errorf(api.CodeInUse, "this host cannot join with a state of its own: %s; remove them first", strings.Join(found[:min(len(found), 10)], ", "))
}

// tokenFor returns the token given in said, else the token of this host's cluster, else
// the token with which a standalone host searches for its cluster. had is the stored
// token.
func (k *Keeper) tokenFor(said string) (token, had Token, err error) {
	had, err = LoadToken(k.Dir)
	if err != nil {
		return Token{}, Token{}, err
	}
	place, _, _, _ := k.current()
	switch {
	case said != "":
		token, err = ParseToken(said)
	case place.InCluster():
		token = had
	default:
		token, _, err = k.wantedToken()
	}
	if err != nil {
		return Token{}, Token{}, &api.Error{Code: api.CodeInvalid, Message: err.Error(), Cause: err}
	}
	if token == publicToken() && !k.InsecureAutojoin && !place.InCluster() {
		return Token{}, Token{}, errPublic
	}
	return token, had, nil
}

// enter stores token and place and restarts the agent. If the place cannot be saved, it
// restores the old token.
func (k *Keeper) enter(ctx context.Context, next Place, token, had Token) (api.Place, error) {
	if err := removeData(k.consulDir()); err != nil {
		return api.Place{}, fmt.Errorf("remove what an earlier Consul has left: %w", err)
	}
	if err := SaveToken(k.Dir, token); err != nil {
		return api.Place{}, err
	}
	if err := k.change(next, ending{}, true); err != nil {
		return api.Place{}, errors.Join(err, SaveToken(k.Dir, had))
	}
	return k.Place(ctx)
}

// prepare checks early for conditions that would only fail after the agent has restarted.
func (k *Keeper) prepare() error {
	if _, err := findConsul(k.Dir); err != nil {
		return &api.Error{Code: api.CodeUnavailable, Message: err.Error(), Cause: err}
	}
	if err := checkSocketPath(k.consul.socket); err != nil {
		return &api.Error{Code: api.CodeConflict, Message: err.Error(), Cause: err}
	}
	_, at, _, _ := k.current()
	if !at.Addr.IsValid() {
		return api.Errorf(api.CodeUnavailable, "it is not known by which interface this host is in the cluster; say it with: socketplane cluster bind IFACE")
	}
	k.mu.Lock()
	ending := k.anew == nil
	k.mu.Unlock()
	if ending { // leaving the old cluster still needs its Consul
		return errChanging
	}
	stopLeftover(k.consulDir())
	for _, port := range []int{k.Ports.Server, k.Ports.Gossip} {
		address := net.JoinHostPort(at.Addr.String(), strconv.Itoa(port))
		conn, err := net.Listen("tcp", address)
		if errors.Is(err, syscall.EADDRINUSE) {
			return api.Errorf(api.CodeConflict, "another program listens on %s, which the agent's Consul needs; stop it, or, if it is a Consul to be used, set consul.address", address)
		}
		if err != nil {
			return fmt.Errorf("port %d of Consul: %w", port, err)
		}
		_ = conn.Close() // the listener was only a test
	}
	return nil
}
