package docker

import (
	"cmp"
	"context"
	"time"

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

// OptionNetwork is the option of a Docker network that names its network in the
// cluster: docker network create -o socketplane.network=web.
const OptionNetwork = "socketplane.network"

// LabelAgent marks a Docker network that an agent has made for a network of the
// cluster. Docker keeps com.docker to itself and its drivers; Compose passes such labels over.
const LabelAgent = "com.docker.network.socketplane.agent"

// ByAgent says whether an agent has made the Docker network.
func (n Network) ByAgent() bool { return n.Labels[LabelAgent] != "" }

// StandsFor gives the network of the cluster that a Docker network of our driver
// stands for: the one that it names, or that is called like it.
func (n Network) StandsFor() string { return cmp.Or(n.Options[OptionNetwork], n.Name) }

// AwaitNetwork waits until Docker has a network of ours, which it gets a moment
// after the agent, and gives its name in Docker, which may be one of a user's.
func (e *Engine) AwaitNetwork(ctx context.Context, network string) (string, error) {
	name := NetworkName(network)
	ctx, cancel := context.WithTimeout(ctx, networkWait)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		list, err := e.Networks(ctx)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			return "", api.Errorf(api.CodeUnavailable, "Docker does not tell of network %q: %w", name, err)
		default:
			found, err := ourNetwork(list, network)
			if err != nil || found != "" {
				return found, err
			}
		}
		select {
		case <-ctx.Done():
			return "", api.Errorf(api.CodeUnavailable,
				"Docker on this host does not have network %q yet; see that the agent runs, then try again: socketplane agent status", name)
		case <-tick.C:
		}
	}
}

// ourNetwork gives the name of the Docker network that stands for a network;
// empty: there is none yet. It fails when there can be none.
func ourNetwork(list []Network, network string) (string, error) {
	for _, n := range list {
		if n.Driver == DriverName && n.StandsFor() == network {
			return n.Name, nil
		}
	}
	name := NetworkName(network)
	for _, n := range list {
		if n.Name == name && n.Driver != DriverName {
			return "", api.Errorf(api.CodeConflict,
				"Docker on this host has a network %q of its own, driver %s; remove it with: docker network rm %s", name, n.Driver, name)
		}
	}
	return "", nil
}
