package cni

import (
	"context"
	"errors"
	"fmt"

	"github.com/containernetworking/cni/pkg/skel"

	"github.com/socketplane/socketplane/agent/api"
)

// gc releases every endpoint that this network configuration made and that is
// not in the list of valid attachments. It goes on after a failure, and tells
// all of them. No list is an empty one, as libcni has it.
func (p *plugin) gc(ctx context.Context, args *skel.CmdArgs) error {
	c, err := decode(args.StdinData, false)
	if err != nil {
		return err
	}
	valid := map[string]bool{}
	for _, a := range append(c.ValidAttachments, c.Attachments...) {
		valid[endpointID(c.Name, a.ContainerID, a.IfName)] = true
	}
	svc := p.connect(c.Socket)
	var list []api.Endpoint
	err = api.WhileUnreachable(ctx, api.Patience, func() (err error) {
		list, err = svc.Endpoints(ctx)
		return err
	})
	if err != nil {
		return err
	}
	var failed []error
	for _, e := range list {
		if !madeBy(c.Name, e) || valid[e.ID] {
			continue
		}
		if err := svc.Release(ctx, e.ID); err != nil {
			failed = append(failed, fmt.Errorf("release %s: %w", e.ID, err))
		}
	}
	return errors.Join(failed...)
}
