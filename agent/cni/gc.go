package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/socketplane/socketplane/agent/api"
)

// gc releases every endpoint that this network configuration created and that is not in
// the list of valid attachments. It continues after a failure and returns all errors.
func (p *plugin) gc(ctx context.Context, args *skel.CmdArgs) error {
	c, err := decode(args.StdinData, false)
	if err != nil {
		return err
	}
	valid, err := c.valid(args.StdinData)
	if err != nil {
		return err
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

// valid returns the ids of the endpoints to keep. The specification requires the list. A
// missing or mistyped list is an error, because it would otherwise release the endpoints
// of all containers. null is an empty list, because libcni writes it.
func (c *config) valid(data []byte) (map[string]bool, error) {
	var keys map[string]json.RawMessage // in their exact spelling, because Go's decoder ignores case
	if err := json.Unmarshal(data, &keys); err != nil {
		return nil, failf(types.ErrDecodingFailure, "network configuration: %v", err)
	}
	_, specified := keys["cni.dev/valid-attachments"]
	_, slipped := keys["cni.dev/attachments"]
	if !specified && !slipped {
		return nil, failf(types.ErrInvalidNetworkConfig,
			"key \"cni.dev/valid-attachments\" is missing: GC frees what it does not list; write [] to free everything of network %s", shown(c.Name))
	}
	valid := map[string]bool{}
	for i, a := range append(c.ValidAttachments, c.Attachments...) {
		if a.ContainerID == "" || a.IfName == "" {
			return nil, failf(types.ErrInvalidNetworkConfig, "valid attachment %d lacks \"containerID\" or \"ifname\"; nothing was freed", i+1)
		}
		valid[endpointID(c.Name, a.ContainerID, a.IfName)] = true
	}
	return valid, nil
}
