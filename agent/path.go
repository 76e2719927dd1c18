package agent

import (
	"context"

	"github.com/socketplane/socketplane/agent/cluster"
	"github.com/socketplane/socketplane/agent/pathmtu"
	"github.com/socketplane/socketplane/ovs"
)

// Paths measures the largest packet that reaches each peer. Config.Self returns the
// result as the MTU of this host.
type Paths interface {
	Set(peers []pathmtu.Peer)
	Probe() ovs.Probe
	Known() (paths map[string]pathmtu.Path, problems []string)
	Run(ctx context.Context, changed func()) error
}

// probed passes the current peers and their tunnels to Paths.
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

// probe returns how the switch takes part in the measurement.
func (a *Agent) probe() ovs.Probe {
	if a.Paths == nil {
		return ovs.Probe{}
	}
	return a.Paths.Probe()
}

// knownPaths returns the paths and problems for Status.
func (a *Agent) knownPaths() (map[string]pathmtu.Path, []string) {
	if a.Paths == nil {
		return nil, nil
	}
	return a.Paths.Known()
}
