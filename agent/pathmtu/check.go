package pathmtu

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/socketplane/socketplane/ovs"
)

const (
	// checkEvery is the interval between checks of a path. In a large cluster the
	// interval is checkPace times the number of peers: at most two checks a second. A
	// check of a path without a limit takes two packets.
	checkEvery = 10 * time.Second
	checkPace  = 500 * time.Millisecond
	// firstRetry is the pause before a silent peer is checked again. It doubles each
	// time.
	firstRetry = time.Second
	// betterTime is how long every check must find that larger packets arrive before a
	// limit is raised. It doubles with each further fall within a day, at most maxDoubled
	// times. Otherwise a path that changes constantly would change the MTU of every
	// container as often.
	betterTime  = 2 * time.Minute
	maxDoubled  = 5
	forgetFalls = 24 * time.Hour
)

// found is the result of a check.
type found struct {
	told   int
	limit  int // 0: none
	below  bool
	better bool // larger packets than the limit arrived
}

// check checks whether the path to a peer is unchanged, and measures it if not. It raises
// a limit only if raise is true.
func (x *exchange) check(ctx context.Context, o peer, iface int, raise bool) (found, error) {
	f := found{told: o.told, limit: o.limit, below: o.below}
	most := mostOf(iface, o.told)
	for range 2 { // repeat if the MTU of the peer's interface changed
		sizes := []int{most}
		limited := o.limit > 0 && o.limit < most
		if limited {
			sizes = append(sizes, o.limit, o.limit+1)
		}
		r, err := x.round(ctx, o.OFPort, tries, sizes...)
		if r.told > 0 {
			f.told = r.told
			if now := mostOf(iface, r.told); now != most {
				most = now
				continue
			}
		}
		if err != nil {
			return f, err
		}
		return x.judge(ctx, o, f, r, most, raise)
	}
	return f, errOdd
}

// mostOf returns the largest packet, in bytes, that may reach a peer. It is limited by
// both interfaces (told is 0 if unknown) and by the largest probe. It is at least Least.
func mostOf(iface, told int) int {
	if told > 0 {
		iface = min(iface, told)
	}
	return max(min(iface, ovs.MaxProbe+outer), Least)
}

func (x *exchange) judge(ctx context.Context, o peer, f found, r round, most int, raise bool) (found, error) {
	limited := o.limit > 0 && o.limit < most
	low, high := 0, most
	switch {
	case most <= Least:
		f.limit, f.below = 0, false
		return f, nil
	case !limited && r.arrived[most]:
		f.limit, f.below = 0, false
		return f, nil
	case limited && r.arrived[o.limit+1]:
		if f.better = true; !raise {
			return f, nil
		}
		if r.arrived[most] {
			f.limit, f.below = 0, false
			return f, nil
		}
		low = o.limit + 1
	case limited && r.arrived[o.limit]:
		f.below = false
		return f, nil
	case limited && o.below:
		return f, nil
	case limited:
		high = o.limit
	}
	limit, err := x.search(ctx, o.OFPort, low, high)
	if err != nil {
		return f, err
	}
	f.limit, f.below = max(limit, Least), limit == 0
	return f, nil
}

// conclude stores the result of a check and reports whether a limit changed. The caller
// holds p.mu.
func (p *Paths) conclude(o *peer, f found, err error, now time.Time) (changed bool) {
	o.busy = false
	if f.told > 0 {
		o.told = f.told
	}
	interval := max(checkEvery, time.Duration(len(p.peers))*checkPace)
	interval = interval*4/5 + rand.N(interval*2/5)
	if err != nil {
		o.retry = min(max(firstRetry, 2*o.retry), interval)
		o.due = now.Add(o.retry)
		return false
	}
	o.due, o.retry, o.known = now.Add(interval), 0, true
	if !f.better {
		o.better = time.Time{}
	} else if o.better.IsZero() {
		o.better = now
	}
	if f.limit == o.limit && f.below == o.below {
		return false
	}
	if fell := f.limit > 0 && (o.limit == 0 || f.limit < o.limit); fell {
		if now.Sub(o.fell) > forgetFalls {
			o.falls = 0
		}
		o.falls, o.fell = o.falls+1, now
	}
	o.limit, o.below, o.better = f.limit, f.below, time.Time{}
	return true
}

// raises reports whether the next check that finds larger packets arriving may raise the
// limit.
func (o *peer) raises(now time.Time) bool {
	return !o.better.IsZero() && now.Sub(o.better) >= betterTime<<min(max(o.falls-1, 0), maxDoubled)
}

const (
	// checksAtOnce and startPause limit the packets when all peers are due, as after a
	// start: ten checks a second.
	checksAtOnce = 8
	startPause   = 100 * time.Millisecond
)

// Run measures the paths until ctx ends. It calls changed whenever the result of Clamp
// may have changed.
func (p *Paths) Run(ctx context.Context, changed func()) error {
	for ctx.Err() == nil {
		wire, err := p.open(ctx, p.mac)
		if err != nil {
			pause(ctx, firstRetry)
			continue
		}
		p.serve(ctx, wire, changed)
	}
	return nil
}

// serve checks peers that are due until the wire fails.
func (p *Paths) serve(ctx context.Context, wire Wire, changed func()) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	x := newExchange(wire)
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		defer cancel()
		x.hear()
	}()
	stop := context.AfterFunc(ctx, wire.Close)
	defer stop()
	slots := make(chan struct{}, checksAtOnce)
	for ctx.Err() == nil {
		o, was, iface, wait := p.next(time.Now())
		if o == nil {
			p.await(ctx, wait)
			continue
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
		}
		go func() {
			defer func() { <-slots }()
			f, err := x.check(ctx, was, iface, was.raises(time.Now()))
			p.finish(o, was, f, err, changed)
		}()
		pause(ctx, startPause)
	}
	wire.Close()
	<-heard
	for range checksAtOnce { // wait until all checks have ended
		slots <- struct{}{}
	}
}

// next returns a peer that is due and a copy of its state, or else how long no peer is
// due.
func (p *Paths) next(now time.Time) (*peer, peer, int, time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var first *peer
	for _, o := range p.peers {
		if !o.here || o.busy || o.OFPort == 0 || p.iface == 0 || !o.VTEP.Is4() {
			continue
		}
		// Of those due at the same time, a peer with a known limit goes first.
		if first == nil || o.due.Before(first.due) || o.due.Equal(first.due) && o.limit > first.limit {
			first = o
		}
	}
	if first == nil {
		return nil, peer{}, 0, checkEvery
	}
	if wait := first.due.Sub(now); wait > 0 {
		return nil, peer{}, 0, wait
	}
	first.busy = true
	return first, *first, p.iface, 0
}

func (p *Paths) await(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-p.kick:
	case <-t.C:
	}
}

// finish stores the result of a check, unless the peer has another tunnel by now.
func (p *Paths) finish(o *peer, was peer, f found, err error, changed func()) {
	p.mu.Lock()
	if o.OFPort != was.OFPort || p.peers[was.ID] != o {
		o.busy = false
		p.mu.Unlock()
		p.wake()
		return
	}
	news := p.conclude(o, f, err, time.Now())
	name, limit, below := o.Name, o.limit, o.below
	p.mu.Unlock()
	p.wake()
	if errors.Is(err, errUnsure) || errors.Is(err, errOdd) {
		p.logger.Debug("a path could not be measured; trying on", "peer", name, "err", err)
	}
	if !news {
		return
	}
	if limit > 0 {
		p.logger.Warn("the path to a peer takes less than the interfaces say", "peer", name, "mtu", limit, "less", below)
	} else {
		p.logger.Info("the path to a peer takes what the interfaces say", "peer", name)
	}
	p.save()
	changed()
}

// wake makes serve look for peers that are due.
func (p *Paths) wake() {
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// falling returns the sizes without duplicates, the largest first.
func falling(sizes []int) []int {
	sizes = slices.Clone(sizes)
	slices.Sort(sizes)
	slices.Reverse(sizes)
	return slices.Compact(sizes)
}
