package agent

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/socketplane/socketplane/agent/cluster"
)

// lookEvery is the interval at which the agent checks hosts that do not hold their
// record.
const lookEvery = 3 * time.Second

// watchDead excludes dead hosts from this host's network and includes them again when
// they return. It gives up what they held in the store if they do not.
func (a *Agent) watchDead(ctx context.Context) error {
	failing := false
	for {
		sleep(ctx, lookEvery/2+rand.N(lookEvery/2))
		if ctx.Err() != nil {
			return nil
		}
		err := a.lookForDead(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && !failing {
			a.Logger.Warn("it is not known which hosts are dead; what was known stands", "err", err)
		}
		failing = err != nil
	}
}

// lookForDead checks once.
func (a *Agent) lookForDead(ctx context.Context) error {
	if !a.view.complete() || !a.isLoaded() {
		return nil
	}
	if a.view.leaving() {
		signal(a.kick)
	}
	gone, err := a.Detector.Look(ctx, a.view.peers(), a.believed)
	died, back := a.view.setGone(gone)
	for _, h := range died {
		a.Logger.Warn("a host is gone; nothing is sent to it any more", "peer", h.Name, "id", h.ID, "vtep", h.VTEP)
	}
	for _, h := range back {
		a.Logger.Info("a host is not gone after all", "peer", h.Name, "id", h.ID, "vtep", h.VTEP)
	}
	if len(died)+len(back) > 0 {
		signal(a.kick)
	}
	if err != nil {
		return err
	}
	var dead []cluster.Host
	for _, h := range a.view.peers() {
		if since, ok := gone[h.ID]; ok && a.ReclaimAfter > 0 && time.Since(since) >= a.ReclaimAfter {
			dead = append(dead, h)
		}
	}
	a.reapSoon(dead)
	return nil
}
