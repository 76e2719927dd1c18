package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/state"
)

const (
	// storeTimeout limits the writes to the store when a host leaves.
	storeTimeout = 10 * time.Second
	// leaveTimeout limits each step of leaving Consul: the quorum, the gossip.
	leaveTimeout = 15 * time.Second
)

// Leave implements api.ClusterService.
func (k *Keeper) Leave(ctx context.Context, req api.LeaveRequest) (_ api.Place, err error) {
	// The turns gate comes first, because a turn in progress ends by changing the place.
	if err := k.turns.enter(ctx); err != nil {
		return api.Place{}, inLine(err)
	}
	defer k.turns.leave()
	if err := k.changes.enter(ctx); err != nil {
		return api.Place{}, inLine(err)
	}
	defer k.changes.leave()
	place, _, store, agent := k.current()
	switch {
	case k.Configured:
		return api.Place{}, k.errConfigured("this host did not leave")
	case !place.InCluster():
		return api.Place{}, api.Errorf(api.CodeConflict, "this host is in no cluster")
	}
	if store == nil && place.Settled && !req.Force {
		// The other hosts could not be informed, and it is unknown which servers would
		// remain.
		return api.Place{}, api.Errorf(api.CodeUnavailable, "the agent has not reached its cluster yet (socketplane agent status says why); try again then, or leave with --force")
	}
	if agent != nil {
		if err := k.release(ctx, agent, req.Force); err != nil {
			return api.Place{}, err
		}
	}
	var seats state.Session
	if store != nil {
		if seats, err = k.replaceServer(ctx, place, store, req.Force); err != nil {
			if !req.Force || ctx.Err() != nil {
				return api.Place{}, &api.Error{Code: api.CodeUnavailable, Message: sentence(err) + "; try again, or leave with --force", Cause: err}
			}
			k.Logger.Warn("this host leaves, and the others may be without a server", "err", err)
		}
	}
	if ctx.Err() != nil { // the request was canceled
		err := ctx.Err()
		if seats != nil {
			err = errors.Join(err, k.stay(ctx, store, seats))
		}
		return api.Place{}, err
	}
	// Left is set because a host with the token in its settings would join again by
	// itself.
	if err := k.change(Place{Is: api.PlaceAlone, Iface: place.Iface, Left: true}, ending{leave: true, seats: seats}, true); err != nil {
		if seats != nil {
			err = errors.Join(err, k.stay(ctx, store, seats))
		}
		return api.Place{}, err
	}
	if err := SaveToken(k.Dir, Token{}); err != nil {
		return api.Place{}, err
	}
	k.Logger.Info("this host leaves its cluster", "cluster", place.Cluster)
	return k.Place(ctx)
}

// release releases the endpoints of this host if force is set. Without force it fails if
// there are any.
func (k *Keeper) release(ctx context.Context, agent Endpoints, force bool) error {
	list, err := agent.Endpoints(ctx)
	if err != nil && !force {
		return err
	}
	if len(list) > 0 && !force {
		var names []string
		for _, e := range list[:min(len(list), 10)] {
			name := e.ContainerName
			if name == "" {
				name = e.ID
			}
			names = append(names, fmt.Sprintf("%q on network %q", name, e.Network))
		}
		return api.Errorf(api.CodeInUse, "this host has %d endpoints: %s; remove them, or release them with --force", len(list), strings.Join(names, ", "))
	}
	for _, e := range list {
		if err := agent.Release(ctx, e.ID); err != nil {
			return fmt.Errorf("release %q: %w", e.ID, err)
		}
	}
	return nil
}

// Finish performs the ending of a run. The caller must call it after this host has
// stopped to use the store and before its Consul stops.
func (k *Keeper) Finish(ctx context.Context, store state.Store) {
	k.mu.Lock()
	end := k.ending
	k.mu.Unlock()
	if end.leave && store != nil {
		writing, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
		if err := forgetHost(writing, store, k.HostID); err != nil {
			k.Logger.Warn("the record of this host stays in the cluster", "err", err)
		}
		cancel()
		// A server without a record no longer counts, so the next host may leave.
		if end.seats != nil {
			endSession(ctx, end.seats)
		}
	}
	if end.leave {
		if err := k.timely(ctx, k.handOver); err != nil {
			k.Logger.Warn("Consul leaves its quorum in haste", "err", err)
		}
	}
	if end.leave || end.move {
		if err := k.timely(ctx, k.consul.leave); err != nil {
			k.Logger.Warn("Consul could not say good-bye; the others notice within a minute", "err", err)
		}
	}
}

// timely runs a step of leaving with its own timeout, even if ctx has ended.
func (k *Keeper) timely(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTimeout)
	defer cancel()
	return f(ctx)
}

// Leftovers removes the files of a cluster that this host has left.
func (k *Keeper) Leftovers() error {
	place, _, _, _ := k.current()
	if place.InCluster() || k.Configured {
		return nil
	}
	if _, err := os.Stat(k.consulDir()); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return removeData(k.consulDir())
}

// forgetHost removes a host's record. The other hosts then remove their tunnels to it.
func forgetHost(ctx context.Context, store state.Store, id string) error {
	e, err := store.Get(ctx, HostsPrefix+id)
	if errors.Is(err, state.ErrNotFound) {
		return nil
	}
	if err == nil {
		err = store.Delete(ctx, e.Key, e.Version)
	}
	return err
}
