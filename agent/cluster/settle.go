package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/state"
)

// findEvery is how often FindUnderlay retries.
const findEvery = 2 * time.Second

// FindUnderlay waits until the interface for the tunnels and the cluster is known. It
// logs each reason to wait once.
func (k *Keeper) FindUnderlay(ctx context.Context) error {
	tick := time.NewTicker(findEvery)
	defer tick.Stop()
	said := ""
	for {
		at, err := k.underlay()
		if err == nil {
			k.mu.Lock()
			k.at, k.waiting = at, ""
			k.mu.Unlock()
			return nil
		}
		if text := err.Error() + "; choose with: socketplane cluster bind IFACE"; text != said {
			said = text
			k.wait(text)
			k.Logger.Warn("it is not known which interface carries the tunnels; waiting", "err", text)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// underlay returns the current underlay.
func (k *Keeper) underlay() (Underlay, error) { return k.Underlay(k.WantIface()) }

// WantIface returns the interface set by bind, else the one in the settings. "" means
// that it has to be detected.
func (k *Keeper) WantIface() string {
	place, _, _, _ := k.current()
	return cmp.Or(place.Iface, k.Iface)
}

// StartConsul runs this host's Consul until the caller calls stop.
func (k *Keeper) StartConsul(ctx context.Context) (stop func(), err error) {
	place, at, _, _ := k.current()
	token, err := LoadToken(k.Dir)
	if err != nil {
		return nil, err
	}
	if token.IsZero() {
		return nil, fmt.Errorf("this host is in cluster %s, and the token is gone from %s/%s; write it there anew, or leave the cluster by removing %s", place.Cluster, k.Dir, tokenFile, placeFile)
	}
	if err := checkSocketPath(k.consul.socket); err != nil {
		return nil, err
	}
	binary, err := findConsul(k.Dir)
	if err != nil {
		return nil, err
	}
	k.mu.Lock()
	k.public = token == publicToken()
	k.mu.Unlock()
	if why := k.Insecure(); why != "" {
		k.Logger.Warn(why)
	}
	c := NewConsul(ConsulOptions{
		Binary: binary, Dir: k.consulDir(), HostID: k.HostID, HostName: k.HostName, Bind: at.Addr, Cluster: place.Cluster,
		Token: token, Server: place.Server, First: place.Is == api.PlaceBootstrapped && !place.Settled,
		Join: place.Peers, Ports: k.Ports,
	}, k.Logger)
	k.mu.Lock()
	k.process = c
	k.mu.Unlock()
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = c.Run(ctx) // Run never fails
	}()
	return func() { cancel(); <-done }, nil
}

// Settle completes the entry into a cluster. It waits until the store has this host's
// state, if the host bootstrapped the cluster, or until this host has dropped its own
// state, if it joined.
func (k *Keeper) Settle(ctx context.Context, store state.Store) error {
	place, _, _, _ := k.current()
	if place.Settled {
		return nil
	}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	said := ""
	for {
		k.wait("its Consul has just been started")
		err := k.settle(ctx, store)
		if err == nil {
			k.wait("")
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if _, final := errors.AsType[*api.Error](err); final {
			k.Logger.Error("this host stays alone", "err", err)
			return errors.Join(k.giveUp(ctx, place), context.Cause(ctx))
		}
		k.wait(err.Error())
		if text := err.Error(); text != said && !errors.Is(err, errNoLeader) && !errors.Is(err, errNotYet) {
			said = text
			k.Logger.Warn("this host is not in its cluster yet; trying on", "err", text)
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

func (k *Keeper) settle(ctx context.Context, store state.Store) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	if err := k.consul.awaitLeader(ctx); err != nil {
		return fmt.Errorf("%w (%w)", errNoLeader, err)
	}
	place, _, _, _ := k.current()
	if place.Is == api.PlaceBootstrapped {
		if err := k.bringState(ctx, store, place); err != nil {
			return err
		}
	} else {
		if err := checkCluster(ctx, store, place.Cluster); err != nil {
			return err
		}
		if err := k.dropState(ctx); err != nil {
			return err
		}
	}
	if err := k.changes.enter(ctx); err != nil {
		return err
	}
	defer k.changes.leave()
	now, _, _, _ := k.current()
	if now.Cluster != place.Cluster {
		return nil // the host left meanwhile, so the run is ending
	}
	now.Settled = true
	return k.change(now, ending{}, false)
}

// bringState copies the host's state to the cluster and renames its file. Only after the
// copy does it write the cluster ID to the store, so that other hosts can join.
func (k *Keeper) bringState(ctx context.Context, store state.Store, place Place) error {
	if _, err := os.Stat(k.StatePath()); err == nil {
		old, err := state.OpenEmbedded(k.StatePath())
		if err != nil {
			return err
		}
		n, err := carryOver(ctx, old, store)
		if err := errors.Join(err, old.Close()); err != nil {
			return err
		}
		k.Logger.Info("the state of this host is in the cluster now", "keys", n)
	}
	if err := markCluster(ctx, store, place.Cluster); err != nil {
		return err
	}
	err := os.Rename(k.StatePath(), k.StatePath()+".carried")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// dropState removes the state of a host that joined. The state contains at most an unused
// default network. If it has gained anything since the check, dropState fails and the
// host stays alone.
func (k *Keeper) dropState(ctx context.Context) error {
	if _, err := os.Stat(k.StatePath()); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	old, err := state.OpenEmbedded(k.StatePath())
	if err != nil {
		return err
	}
	found, err := obstacles(ctx, old)
	if err := errors.Join(err, old.Close()); err != nil {
		return err
	}
	if len(found) > 0 {
		return errObstacles(found)
	}
	return os.Remove(k.StatePath())
}

// giveUp makes the host standalone again.
func (k *Keeper) giveUp(ctx context.Context, place Place) error {
	if err := k.changes.enter(ctx); err != nil {
		return err
	}
	defer k.changes.leave()
	return k.change(Place{Is: api.PlaceAlone, Iface: place.Iface}, ending{leave: true}, true)
}
