package agent

import (
	"context"

	"github.com/socketplane/socketplane/agent/cluster"
	"github.com/socketplane/socketplane/agent/pathmtu"
	"github.com/socketplane/socketplane/ovs"
)

// Paths measures the largest packet that reaches each peer. What it finds comes back
// as the MTU of Self.
type Paths interface {
	Set(peers []pathmtu.Peer)
	Probe() ovs.Probe
	Known() (paths map[string]pathmtu.Path, problems []string)
	Run(ctx context.Context, changed func()) error
}

// probed tells Paths which peers there are, and by which tunnels.
func (a *Agent) probed(peers []cluster.Host, tunnels map[string]int) {
	if a.Paths == nil {
		return
	}
	list := make([]pathmtu.Peer, 0, len(peers))
	for _, h := range peers {
		list = append(list, pathmtu.Peer{ID: h.ID, Name: h.Name, VTEP: h.VTEP, OFPort: tunnels[h.ID], Alive: h.Alive})
	}
	a.Paths.Set(list)
}

// probe says how the switch takes part in measuring paths.
func (a *Agent) probe() ovs.Probe {
	if a.Paths == nil {
		return ovs.Probe{}
	}
	return a.Paths.Probe()
}

// knownPaths gives what Status says of paths.
func (a *Agent) knownPaths() (map[string]pathmtu.Path, []string) {
	if a.Paths == nil {
		return nil, nil
	}
	return a.Paths.Known()
}
