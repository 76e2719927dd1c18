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

// DriverName is the name of our network driver in Docker.
const DriverName = "socketplane"

// networkWait bounds how long Docker may take to create a network that is new on this
// host.
const networkWait = 10 * time.Second

// NetworkName returns the Docker name of a network of the cluster. They differ for the
// default network, because Docker reserves the name "default".
func NetworkName(network string) string {
	if network == api.DefaultNetwork {
		return DriverName
	}
	return network
}

// OptionNetwork is the option of a Docker network that names its network of the cluster:
// docker network create -o socketplane.network=web.
const OptionNetwork = "socketplane.network"

// LabelAgent marks a Docker network that an agent has created for a network of the
// cluster. Docker reserves the prefix com.docker for itself and its drivers. Compose
// ignores labels with it.
const LabelAgent = "com.docker.network.socketplane.agent"

// ByAgent reports whether an agent has created the Docker network.
func (n Network) ByAgent() bool { return n.Labels[LabelAgent] != "" }

// StandsFor returns the network of the cluster that a Docker network of our driver stands
// for. OptionNetwork takes precedence over the name of the Docker network.
func (n Network) StandsFor() string { return cmp.Or(n.Options[OptionNetwork], ClusterName(n.Name)) }

// hashLen is the number of hex digits of the hash that ClusterName appends.
const hashLen = 8

// ClusterName returns the cluster's name for a network that was created through Docker. It
// is Docker's name if that is valid in the cluster. Docker also allows spaces, slashes,
// any letter and any length. ClusterName replaces the invalid characters of such a name by
// '-' and appends the first digits of its SHA-256, so that two names stay different. It
// does not change reserved names, which the cluster then rejects.
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

// AwaitNetwork waits until Docker has the Docker network of a network, and returns its
// name in Docker. Docker gets it shortly after the agent does. The name may be one that a
// user chose. AwaitNetwork fails with CodeUnavailable after 10 s.
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

// ourNetwork returns the name of the Docker network that stands for a network, or "" if
// there is none yet. It fails if a network of another driver has the name.
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
