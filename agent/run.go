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
	// slowTimer is how often everything is compared when nothing seems to
	// change: it bounds how long a change that nobody announced can last.
	slowTimer = 30 * time.Second
	// retryConverge paces passes while something fails.
	retryConverge = time.Second
	// retryWatch is the longest pause between attempts to read a part of the
	// store that does not answer.
	retryWatch = 3 * time.Second
	// watchPause is the most that a watch waits between two readings, and
	// watchFactor what it waits of the time the last one took: in a small
	// cluster nothing to speak of, in a large one a reading is dear.
	watchPause  = time.Second
	watchFactor = 2
	// errandGrace is how long the end waits for what callers have left to us,
	// such as a detach.
	errandGrace = 5 * time.Second
)

// Run keeps the host as it should be until ctx ends. It returns an error only
// when the ports of an earlier life cannot be read at the start. Nothing is
// taken down at the end: containers go on while the agent is away.
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

// lossDelay is how long whoever takes a container away has to say so, before its
// vanished interface makes us look. Docker says it within milliseconds.
const lossDelay = 300 * time.Millisecond

// gone looks, a moment later, whether an endpoint has lost its interface unsaid:
// a container that nobody speaks for has ended.
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

// watch reads one part of the store whole, each time it changes.
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

// take puts a snapshot into force.
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

// ensureDefault makes the network that a container joins when none is named.
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

// convergeLoop runs converge whenever something says that it may be needed.
func (a *Agent) convergeLoop(ctx context.Context) error {
	compare := true
	var compared time.Time // when last
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
			wait, kick = retryConverge, nil // what fails calls for another pass itself, at once
		}
		compare = a.await(ctx, wait, kick, compared.Add(slowTimer))
	}
	return nil
}

// await waits for a reason to converge and says whether a whole comparison is due.
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

// report keeps what a pass said for Status and logs it when it is news.
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
		text = "" // the watches log a store that does not answer; at the start it is no news
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
