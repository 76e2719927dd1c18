package agent

import (
	"context"
	"math/rand/v2"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/socketplane/socketplane/agent/state"
)

const (
	// slowTimer is the interval of full comparisons. It bounds how long a change lasts
	// that nothing reported.
	slowTimer = 30 * time.Second
	// retryConverge is the pause between passes while something fails.
	retryConverge = time.Second
	// retryWatch is the longest pause between attempts to read a part of the store that
	// does not answer.
	retryWatch = 3 * time.Second
	// watchPause bounds the pause of a watch between two snapshots. watchFactor is the
	// minimum ratio of the pause to the time that applying the last snapshot took: the
	// pause is negligible in a small cluster, while snapshots of a large one are
	// expensive.
	watchPause  = time.Second
	watchFactor = 2
	// errandGrace bounds how long Run waits at its end for the work that callers left
	// behind, such as a detach.
	errandGrace = 5 * time.Second
)

// Run keeps the host in its desired state until ctx ends. It returns an error only if it
// cannot read the ports from before a restart. It removes nothing at its end: containers
// keep working while the agent is down.
func (a *Agent) Run(ctx context.Context) error {
	if err := a.adopt(ctx); err != nil {
		return err
	}
	if err := a.closeClusterPorts(ctx); err != nil {
		a.Logger.Error("the cluster's ports are open to containers; trying on", "err", err)
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, part := range []string{partHosts, partNetworks, partEndpoints} {
		g.Go(func() error { return a.watch(ctx, part) })
	}
	g.Go(func() error { return a.ensureDefault(ctx) })
	g.Go(func() error { return a.convergeLoop(ctx) })
	g.Go(func() error { return a.watchPlane(ctx) })
	g.Go(func() error { return a.Links.WatchGone(ctx, a.gone) })
	g.Go(func() error { return a.watchHost(ctx) })
	if a.Paths != nil {
		g.Go(func() error { return a.Paths.Run(ctx, func() { signal(a.kick) }) })
	}
	if a.Detector != nil {
		g.Go(func() error { return a.watchDead(ctx) })
	}
	if a.Membership != nil {
		g.Go(func() error { return a.watchReturn(ctx) })
	}
	err := g.Wait()
	a.errands.finish(errandGrace)
	return err
}

// lossDelay is how long the remover of a container has to announce the removal before the
// vanished interface triggers a check. Docker does so within milliseconds.
const lossDelay = 300 * time.Millisecond

// gone requests a pass of converge if an endpoint lost its interface without a detach. It
// checks after lossDelay.
func (a *Agent) gone(port string) {
	if !a.attachedBy(port) {
		return
	}
	a.errands.run(lossDelay+undoTimeout, func(ctx context.Context) {
		a.errands.pause(ctx, lossDelay)
		if a.attachedBy(port) {
			signal(a.kick)
		}
	})
}

func (a *Agent) attachedBy(port string) bool {
	l, ok := a.table.atPort(port)
	return ok && l.Attached
}

// watch reads one part of the store as a whole each time it changes.
func (a *Agent) watch(ctx context.Context, part string) error {
	var index uint64
	failing := false
	pause := retryWatch / 8
	for ctx.Err() == nil {
		snap, err := a.Store.Wait(ctx, part, index)
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			if !failing {
				a.Logger.Warn("a watch of the store failed; trying on", "part", part, "err", err)
			}
			failing, index = true, 0
			sleep(ctx, pause+rand.N(pause))
			pause = min(pause*2, retryWatch)
			continue
		}
		if failing {
			a.Logger.Info("the store answers again", "part", part)
			failing, pause = false, retryWatch/8
		}
		if snap.Index != index || index == 0 {
			index = snap.Index
			a.take(ctx, part, snap)
		}
	}
	return nil
}

// take applies a snapshot.
func (a *Agent) take(ctx context.Context, part string, snap state.Snapshot) {
	start := time.Now()
	first := !a.view.complete()
	gone, errs := a.view.set(part, snap)
	for _, err := range errs {
		a.Logger.Error("a value of the store is left alone", "part", part, "err", err)
	}
	if part != partEndpoints {
		a.judge()
	}
	a.lookAtOwn(part, snap)
	a.followMissed()
	if part == partNetworks {
		signal(a.networks)
	}
	for _, subnet := range gone {
		a.Addresses.Forget(subnet)
	}
	if first || part != partEndpoints {
		signal(a.kick)
	} else if err := a.forwarding.Do(ctx); err != nil && ctx.Err() == nil {
		a.Logger.Warn("the switch did not take the endpoints of other hosts; trying on", "err", err)
		signal(a.kick)
	}
	if cost := time.Since(start) * watchFactor; cost > time.Millisecond {
		sleep(ctx, min(cost+rand.N(cost), watchPause))
	}
}

// ensureDefault creates the network that a container joins by default.
func (a *Agent) ensureDefault(ctx context.Context) error {
	var last string
	for ctx.Err() == nil {
		r, err := a.Catalog.EnsureDefault(ctx)
		if err == nil {
			a.view.putNetwork(r)
			return nil
		}
		if text := err.Error(); !away(err) && ctx.Err() == nil && text != last {
			a.Logger.Error("the default network cannot be made; trying on", "err", err)
			last = text
		}
		sleep(ctx, retryWatch)
	}
	return nil
}

// convergeLoop runs converge whenever it may be necessary.
func (a *Agent) convergeLoop(ctx context.Context) error {
	compare := true
	var compared time.Time // time of the last comparison
	var last string
	for ctx.Err() == nil {
		if compare {
			compared = time.Now()
		}
		skipped := a.skipped.Load()
		err := a.converge(ctx, compare)
		if ctx.Err() != nil {
			break
		}
		a.report(err, &last)
		wait, kick := slowTimer, a.kick
		if a.skipped.Load() != skipped {
			wait = retryConverge
		}
		if err != nil {
			wait, kick = retryConverge, nil // a failure requests another pass itself, without a pause
		}
		compare = a.await(ctx, wait, kick, compared.Add(slowTimer))
	}
	return nil
}

// await waits for a reason to run converge and reports whether a full comparison is due.
func (a *Agent) await(ctx context.Context, d time.Duration, kick <-chan struct{}, due time.Time) (compare bool) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-kick:
	case <-t.C:
	}
	return !time.Now().Before(due)
}

// report stores the errors of a pass for Status and logs them if they are new.
func (a *Agent) report(err error, last *string) {
	problems := sentences(err)
	complete := a.view.complete() && a.isLoaded()
	if err == nil && !complete {
		problems = []string{"the state has not been read yet: " + a.Store.String() + " has not answered"}
	}
	a.mu.Lock()
	a.problems = problems
	a.ready = a.ready || (err == nil && complete)
	a.mu.Unlock()

	text := strings.Join(problems, "; ")
	if err == nil && !complete {
		text = "" // the watches log an unavailable store, and at the start it is not news
	}
	switch {
	case text != "" && text != *last:
		a.Logger.Warn("this host is not as it should be; trying on", "err", text)
	case text == "" && *last != "":
		a.Logger.Info("this host is as it should be")
	}
	*last = text
}

// sleep waits for d or for ctx to end.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
