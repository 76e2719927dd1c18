package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"

	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/agent/stored"
)

// ClusterKey holds the ID of the cluster whose state the store contains. In a cluster
// with a managed Consul, the key exists once the state of the first host is there.
const ClusterKey = state.Prefix + "cluster"

// clusterVersion is the layout version of clusterValue.
const clusterVersion = 1

// clusterValue is the value of ClusterKey.
type clusterValue struct {
	Version int    `json:"version"`
	ID      string `json:"id"` // UUID
}

// carryOver copies the networks, VLANs, addresses and endpoints of a standalone host to a
// cluster's store. It returns the number of keys that it copied. It may be repeated after
// an interruption. If a key has another value in the cluster, carryOver fails and leaves
// it unchanged. It does not copy host records, because each host writes its own.
func carryOver(ctx context.Context, from, to state.Store) (int, error) {
	entries, err := from.List(ctx, state.Prefix)
	if err != nil {
		return 0, fmt.Errorf("read the state of this host: %w", err)
	}
	carried := 0
	for _, e := range entries {
		if strings.HasPrefix(e.Key, HostsPrefix) || e.Key == ClusterKey {
			continue
		}
		_, err := to.CompareAndSet(ctx, e.Key, e.Value, 0)
		if errors.Is(err, state.ErrConflict) {
			var there state.Entry
			if there, err = to.Get(ctx, e.Key); err == nil && !bytes.Equal(there.Value, e.Value) {
				err = fmt.Errorf("the cluster has another value of it: %w", state.ErrConflict)
			}
		}
		if err != nil {
			return carried, fmt.Errorf("carry %q over to the cluster: %w", e.Key, err)
		}
		carried++
	}
	return carried, nil
}

// markCluster writes the cluster ID to a store, unless the store has the same ID already.
func markCluster(ctx context.Context, store state.Store, id string) error {
	value, err := stored.Encode(clusterValue{Version: clusterVersion, ID: id})
	if err != nil {
		return err
	}
	_, err = store.CompareAndSet(ctx, ClusterKey, value, 0)
	if errors.Is(err, state.ErrConflict) {
		return checkCluster(ctx, store, id)
	}
	return err
}

// errNotYet reports that the first host is still creating the cluster.
var errNotYet = errors.New("the cluster's first host has not brought its state yet")

// checkCluster returns an error unless the store belongs to cluster id.
func checkCluster(ctx context.Context, store state.Store, id string) error {
	e, err := store.Get(ctx, ClusterKey)
	if errors.Is(err, state.ErrNotFound) {
		return errNotYet
	}
	if err != nil {
		return err
	}
	var v clusterValue
	if err = stored.Read(e.Value, clusterVersion, &v); errors.Is(err, stored.ErrNewer) {
		return fmt.Errorf("key %q: %w", ClusterKey, err)
	}
	if _, idErr := uuid.Parse(v.ID); err != nil || idErr != nil {
		return fmt.Errorf("key %q does not say which cluster this is (%.80q)", ClusterKey, e.Value)
	}
	if v.ID != id {
		return fmt.Errorf("the store is of cluster %s, this host is of %s", v.ID, id)
	}
	return nil
}

// obstacles lists the state that keeps this host from joining: endpoints, and every
// network except the default one.
func obstacles(ctx context.Context, store state.Store) ([]string, error) {
	var found []string
	networks, err := store.List(ctx, network.NetworksPrefix)
	if err != nil {
		return nil, fmt.Errorf("read the state of this host: %w", err)
	}
	for _, e := range networks {
		if name := strings.TrimPrefix(e.Key, network.NetworksPrefix); name != "default" {
			found = append(found, fmt.Sprintf("network %q", name))
		}
	}
	lists, err := store.List(ctx, network.EndpointsPrefix)
	if err != nil {
		return nil, fmt.Errorf("read the state of this host: %w", err)
	}
	for _, e := range lists {
		name, _, _ := strings.Cut(strings.TrimPrefix(e.Key, network.EndpointsPrefix), "/")
		found = append(found, fmt.Sprintf("endpoints on network %q", name))
	}
	return found, nil
}
