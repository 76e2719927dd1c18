package cni

import (
	"context"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
)

// statusTimeout bounds STATUS, because runtimes call it every few seconds.
const statusTimeout = 5 * time.Second

// status reports whether an ADD would succeed now: the agent answers, has brought its host
// to the desired state once, and knows the network. Code 50 means that the agent is
// unavailable, but existing containers keep their connectivity. Code 51 means that the
// agent cannot bring the host to the desired state, so they may have lost it.
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
