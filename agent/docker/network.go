package docker

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"strings"
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
func (n Network) StandsFor() string { return cmp.Or(n.Options[OptionNetwork], ClusterName(n.Name)) }

// hashLen is how many digits of a name's hash ClusterName appends.
const hashLen = 8

// ClusterName gives the name in the cluster of a network that was made through
// Docker. That is Docker's name where it can be one. Docker allows more: spaces,
// slashes, any letter, any length. Of such a name the characters that the cluster
// does not take become '-', and the beginning of its SHA-256 follows, so that two
// names never become one. Names that are reserved stay as they are, and are refused.
func ClusterName(name string) string {
	if api.CheckNetworkRef(name) == nil {
		return name
	}
	var b strings.Builder
	for _, r := range name {
		switch {
		case b.Len() >= api.MaxNameLen-hashLen-1:
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', b.Len() > 0 && (r == '_' || r == '-'):
			b.WriteRune(r)
		case b.Len() > 0 && !strings.HasSuffix(b.String(), "-"):
			b.WriteByte('-')
		}
	}
	if b.Len() == 0 {
		b.WriteString("net")
	}
	hash := sha256.Sum256([]byte(name))
	return strings.TrimRight(b.String(), "-") + "-" + hex.EncodeToString(hash[:])[:hashLen]
}

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
