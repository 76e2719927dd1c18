package cluster

import (
	"context"

	"github.com/socketplane/socketplane/agent/api"
)

// Bind implements api.ClusterService. The interface in the request overrides the settings
// until the next request.
func (k *Keeper) Bind(ctx context.Context, req api.BindRequest) (api.Place, error) {
	if req.Iface != "" {
		if err := api.CheckIfName(req.Iface); err != nil {
			return api.Place{}, err
		}
	}
	if err := k.changes.enter(ctx); err != nil {
		return api.Place{}, inLine(err)
	}
	defer k.changes.leave()
	place, at, _, _ := k.current()
	next := place
	next.Iface = req.Iface
	iface := req.Iface
	if iface == "" {
		iface = k.Iface
	}
	want, err := k.Underlay(iface)
	if err != nil {
		return api.Place{}, &api.Error{Code: api.CodeConflict, Message: err.Error() + "; the interfaces are shown by: ip -4 address", Cause: err}
	}
	// Bind stores the addresses of the peers, because they may not know this host's new
	// address.
	next.Peers = k.peersNow(ctx, place)
	moves := want != at
	if err := k.change(next, ending{move: moves && place.InCluster()}, moves); err != nil {
		return api.Place{}, err
	}
	k.Logger.Info("the tunnels are bound to an interface", "iface", want.Iface, "address", want.Addr)
	return k.Place(ctx)
}
