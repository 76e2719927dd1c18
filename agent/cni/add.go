package cni

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containernetworking/cni/pkg/skel"

	"github.com/socketplane/socketplane/agent/api"
)

// undoTimeout bounds the way back after an ADD that cannot tell its result.
const undoTimeout = 10 * time.Second

// add gives the container its interface. An interface of that name that is there
// already is an error, as the specification requires, also when an earlier ADD
// made it: a runtime that tries again after a failure calls DEL first.
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
		// Nobody will know of the interface: it goes again.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		defer cancel()
		return errors.Join(err, svc.Release(ctx, e.ID))
	}
	return nil
}

// del takes it away. It needs nothing of what ADD made: neither the namespace,
// nor the network, nor that there was an ADD.
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
