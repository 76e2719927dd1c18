package docker

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"

	"github.com/socketplane/socketplane/agent/api"
)

// DriverName is our network driver's name in Docker.
const DriverName = "socketplane"

// networkWait bounds how long Docker may take to have a network that is new on
// this host.
const networkWait = 10 * time.Second

// NetworkName is the name of a network of ours in Docker, which keeps "default"
// for itself.
func NetworkName(network string) string {
	if network == api.DefaultNetwork {
		return DriverName
	}
	return network
}

// NetworkDriver says which driver has the network of this name in Docker; empty:
// there is no such network.
func (e *Engine) NetworkDriver(ctx context.Context, name string) (string, error) {
	got, err := e.cli.NetworkInspect(ctx, name, client.NetworkInspectOptions{})
	switch {
	case errdefs.IsNotFound(err):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("inspect network %s: %w", name, err)
	case got.Network.Name != name: // Docker takes the beginning of an id, too
		return "", nil
	}
	return got.Network.Driver, nil
}

// AwaitNetwork waits until Docker has a network of ours, which it gets a moment
// after the agent, and gives its name in Docker.
func (e *Engine) AwaitNetwork(ctx context.Context, network string) (string, error) {
	name := NetworkName(network)
	ctx, cancel := context.WithTimeout(ctx, networkWait)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		driver, err := e.NetworkDriver(ctx, name)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			return "", api.Errorf(api.CodeUnavailable, "Docker does not tell of network %q: %w", name, err)
		case driver == DriverName:
			return name, nil
		case driver != "":
			return "", api.Errorf(api.CodeConflict,
				"Docker on this host has a network %q of its own, driver %s; remove it with: docker network rm %s", name, driver, name)
		}
		select {
		case <-ctx.Done():
			return "", api.Errorf(api.CodeUnavailable,
				"Docker on this host does not have network %q yet; see that the agent runs, then try again: socketplane agent status", name)
		case <-tick.C:
		}
	}
}
