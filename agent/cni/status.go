package cni

import (
	"context"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
)

// statusTimeout bounds STATUS: runtimes ask every few seconds.
const statusTimeout = 5 * time.Second

// status says whether an ADD would succeed now: the agent is there and has
// brought its host to what it should be once, and knows the network. While it
// is not there, packets go on (50); when it cannot bring the host to what it
// should be, they may not (51).
func (p *plugin) status(ctx context.Context, args *skel.CmdArgs) error {
	c, err := decode(args.StdinData, true)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	svc := p.connect(c.Socket)
	s, err := svc.Status(ctx)
	switch {
	case err != nil:
		return failf(types.ErrPluginNotAvailable, "%v", err)
	case !s.Ready && len(s.Problems) > 0:
		return failf(types.ErrLimitedConnectivity, "the agent is not ready: %s", strings.Join(s.Problems, "; "))
	case !s.Ready:
		return failf(types.ErrPluginNotAvailable, "the agent is not ready yet")
	}
	if _, err := svc.Network(ctx, c.Network); err != nil {
		return failf(types.ErrPluginNotAvailable, "%v", err)
	}
	return nil
}
