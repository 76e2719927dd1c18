package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/cluster"
)

// placeTimeout is how long an agent that runs may take to say where it is.
const placeTimeout = 5 * time.Second

// leaveCluster leaves the cluster that the host is in. What only stops is never taken
// for dead while its machine lives: its record, and a server's vote, would stay for
// good. With force that is said and no obstacle.
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

// leaveOrderly says which cluster the host was in, empty for none, and what keeps it
// there.
func (a *app) leaveOrderly(ctx context.Context, s Settings, force bool) (in string, err error) {
	if s.Consul.Address != "" {
		return "", nil // whose Consul it is takes care of it
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
