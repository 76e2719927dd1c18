package agent

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"

	"github.com/socketplane/socketplane/ovs"
)

// pinEvery is the interval at which unchanged ways are pinned again. It is well below the
// 15 minutes for which the switch remembers a MAC address.
const pinEvery = 5 * time.Minute

// ways records the last pinned way to each tunnel address. waysLock guards it.
type ways map[netip.Addr]pinnedWay

type pinnedWay struct {
	ovs.Way
	at time.Time
}

// convergeWays pins the way to each peer in the userspace datapath, so that no packet is
// lost while the switch looks for it. Errors are harmless: the switch then finds the way
// itself.
func (a *Agent) convergeWays(ctx context.Context) {
	if !a.userspace() {
		return
	}
	unlock, err := a.planes.Lock(ctx, waysLock)
	if err != nil {
		return
	}
	defer unlock()
	if a.forgetful.Swap(false) {
		a.ways = nil
	}
	found := ways{}
	var wg sync.WaitGroup
	var mu sync.Mutex
	for _, h := range a.trusted() {
		old := a.ways[h.VTEP]
		wg.Go(func() {
			way, err := a.pinWay(ctx, h.VTEP, old)
			if err != nil && !errors.Is(err, context.Canceled) {
				a.Logger.Debug("the way to a peer is left to the switch", "peer", h.Name, "err", err)
			}
			mu.Lock()
			defer mu.Unlock()
			found[h.VTEP] = way
		})
	}
	wg.Wait()
	a.ways = found
}

// pinWay pins the way to a peer, unless the same way was pinned less than pinEvery ago.
func (a *Agent) pinWay(ctx context.Context, vtep netip.Addr, old pinnedWay) (pinnedWay, error) {
	n, err := a.Links.Neighbor(ctx, vtep)
	if err != nil {
		return old, err
	}
	way := ovs.Way{Peer: vtep, Hop: n.Addr, MAC: n.MAC, Bridge: n.Interface}
	if way == old.Way && time.Since(old.at) < pinEvery {
		return old, nil
	}
	if err := a.Switch.PinWay(ctx, way); err != nil {
		return old, err
	}
	return pinnedWay{Way: way, at: time.Now()}, nil
}
