package cni

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containernetworking/cni/pkg/skel"

	"github.com/socketplane/socketplane/agent/api"
)

// undoTimeout bounds the rollback of an ADD that cannot write its result.
const undoTimeout = 10 * time.Second

// add attaches the container. It fails if an interface of that name exists, as the
// specification requires, even if an earlier ADD created it: a runtime that retries after
// a failure calls DEL first.
func (p *plugin) add(ctx context.Context, args *skel.CmdArgs) error {
	c, err := decode(args.StdinData, true)
	if err != nil {
		return err
	}
	prev, err := c.previous()
	if err != nil {
		return err
	}
	req, err := asked(c, args)
	if err != nil {
		return err
	}
	if there(args.Netns, req.IfName) {
		return failf(codeConflict, "container %s has an interface %q already; call DEL before another ADD, or choose another CNI_IFNAME",
			shown(args.ContainerID), req.IfName)
	}
	svc := p.connect(c.Socket)
	var e api.Endpoint
	err = api.WhileUnreachable(ctx, api.Patience, func() (err error) {
		e, err = svc.Attach(ctx, req)
		return err
	})
	if err != nil {
		return err
	}
	if err := p.tell(c, prev, e, args.Netns); err != nil {
		// The runtime will not know of the interface, so remove it.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		defer cancel()
		return errors.Join(err, svc.Release(ctx, e.ID))
	}
	return nil
}

// del removes the interface. It works without the namespace, without the network, and
// without a preceding ADD.
func (p *plugin) del(ctx context.Context, args *skel.CmdArgs) error {
	c, err := decode(args.StdinData, false)
	if err != nil {
		return err
	}
	svc := p.connect(c.Socket)
	err = api.WhileUnreachable(ctx, api.Patience, func() error {
		return svc.Release(ctx, endpointID(c.Name, args.ContainerID, args.IfName))
	})
	if err != nil {
		return fmt.Errorf("take the interface of container %s away: %w", shown(args.ContainerID), err)
	}
	return nil
}
