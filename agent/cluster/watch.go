package cluster

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/state"
)

// watchEvery is how often Watch compares this host's place with the actual state.
const watchEvery = 3 * time.Second

// Watch keeps the place up to date while the agent runs: the addresses of the other
// hosts, and this host's address, which may change on its interface.
func (k *Keeper) Watch(ctx context.Context) error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		k.followAddress(ctx)
		if k.Managed() {
			k.rememberPeers(ctx)
			k.balance(ctx)
		}
	}
}

// followAddress restarts the agent if the interface has a new address. It ignores an
// interface without an address, which may get it back.
func (k *Keeper) followAddress(ctx context.Context) {
	if err := k.changes.enter(ctx); err != nil {
		return
	}
	defer k.changes.leave()
	place, at, _, _ := k.current()
	if !place.InCluster() {
		return // the tunnels of a standalone host follow without a restart
	}
	now, err := k.underlay()
	if err != nil || now == at {
		return
	}
	k.Logger.Warn("the address of this host has changed", "was", at.Addr, "is", now.Addr, "iface", now.Iface)
	if err := k.change(place, ending{move: true}, true); err != nil {
		k.Logger.Warn("the new address is not taken up yet", "err", err)
	}
}

func (k *Keeper) rememberPeers(ctx context.Context) {
	if err := k.changes.enter(ctx); err != nil {
		return
	}
	defer k.changes.leave()
	place, _, _, _ := k.current()
	peers := k.peersNow(ctx, place)
	if !place.InCluster() || slices.Equal(peers, place.Peers) {
		return
	}
	place.Peers = peers
	if err := k.change(place, ending{}, false); err != nil {
		k.Logger.Warn("the addresses of the other hosts are not remembered", "err", err)
	}
}

// peersNow returns the addresses of the other hosts. It returns the stored addresses if
// it cannot see any host.
func (k *Keeper) peersNow(ctx context.Context, place Place) []netip.Addr {
	if !place.InCluster() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	members, err := k.consul.members(ctx)
	if err != nil {
		return place.Peers
	}
	var peers []netip.Addr
	for _, m := range members {
		if a, err := netip.ParseAddr(m.Addr); err == nil && a.Is4() && m.hostID() != k.HostID && !m.gone() {
			peers = append(peers, a)
		}
	}
	if len(peers) == 0 && place.Is == api.PlaceJoined {
		return place.Peers
	}
	slices.SortFunc(peers, netip.Addr.Compare)
	return peers[:min(len(peers), maxPeers)]
}

// Members implements api.ClusterService.
func (k *Keeper) Members(ctx context.Context) ([]api.Member, error) {
	place, _, store, agent := k.current()
	if store == nil {
		return nil, api.Errorf(api.CodeUnavailable, "the agent waits: %s", k.Waiting())
	}
	hosts, err := List(ctx, store)
	if err != nil {
		return nil, explainStore(err)
	}
	roles := map[string]string{}
	if place.InCluster() {
		members, err := k.consul.members(ctx)
		if err != nil {
			return nil, &api.Error{Code: api.CodeUnavailable, Message: "this host's Consul does not answer; try again", Cause: err}
		}
		for _, m := range members {
			roles[m.hostID()] = "client"
		}
		// A server counts as one only once it votes.
		quorum, err := k.consul.quorum(ctx)
		if err != nil {
			return nil, &api.Error{Code: api.CodeUnavailable, Message: "Consul's servers do not answer; try again", Cause: err}
		}
		for _, s := range quorum {
			if s.Voter {
				roles[s.ID] = "server"
			}
		}
	}
	// Each host decides for itself which silent hosts are dead.
	status, err := agent.Status(ctx)
	if err != nil {
		return nil, err
	}
	list, behind := []api.Member{}, Behind(hosts)
	for _, h := range hosts {
		m := api.Member{
			ID: h.ID, Name: h.Name, Address: h.VTEP.String(), Role: roles[h.ID], State: api.StateSuspect, Self: h.ID == k.HostID,
			Version: h.Version, Behind: behind[h.ID],
		}
		if h.Alive {
			m.State = api.StateAlive
		} else if slices.ContainsFunc(status.Peers, func(p api.Peer) bool { return p.ID == h.ID && p.State == api.StateGone }) {
			m.State = api.StateGone
		}
		list = append(list, m)
	}
	slices.SortFunc(list, func(a, b api.Member) int { return strings.Compare(a.Name+"\x00"+a.ID, b.Name+"\x00"+b.ID) })
	return list, nil
}

func explainStore(err error) error {
	if isAway(err) {
		return &api.Error{Code: api.CodeUnavailable, Message: sentence(err) + "; try again", Cause: err}
	}
	return err
}

func isAway(err error) bool {
	return errors.Is(err, state.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded)
}
