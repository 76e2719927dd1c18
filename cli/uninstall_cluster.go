package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/cluster"
)

// placeTimeout bounds the request for the place of a running agent.
const placeTimeout = 5 * time.Second

// leaveCluster removes the host from its cluster. Without this, the cluster would never
// consider the host dead while its machine runs, and would keep its record, and a server's
// vote, forever. With force it only reports if it cannot leave.
func (a *app) leaveCluster(ctx context.Context, s Settings, force bool) (string, error) {
	in, err := a.leaveOrderly(ctx, s, force)
	switch {
	case in == "":
		return "", err
	case err == nil:
		return "this host has left cluster " + in, nil
	case !force || ctx.Err() != nil:
		return "", fmt.Errorf("this host is in cluster %s and cannot leave it: %w; or use --force, and its record stays there", in, err)
	}
	return fmt.Sprintf("this host could not leave cluster %s (%s): its record stays there, and the others show it as suspect", in, oneLine(err.Error())), nil
}

// leaveOrderly leaves the cluster. It returns the cluster that the host was in, or "" if
// none, and the error that prevents leaving.
func (a *app) leaveOrderly(ctx context.Context, s Settings, force bool) (in string, err error) {
	if s.Consul.Address != "" {
		return "", nil // the administrator of that Consul is responsible
	}
	svc := api.NewClient(s.API.Socket)
	asking, cancel := context.WithTimeout(ctx, placeTimeout)
	place, err := svc.Place(asking)
	cancel()
	if err != nil {
		noted, loadErr := cluster.LoadPlace(s.Host.StateDir)
		if loadErr != nil || !noted.InCluster() {
			return "", loadErr
		}
		return noted.Cluster, errors.New("its agent does not answer; start it: socketplane agent start")
	}
	if place.Is != api.PlaceBootstrapped && place.Is != api.PlaceJoined {
		return "", nil
	}
	_, _, err = a.change(ctx, func(svc api.ClusterService) (api.Place, error) {
		return svc.Leave(ctx, api.LeaveRequest{Force: force})
	})
	return place.Cluster, err
}
