package cluster

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"

	"github.com/socketplane/socketplane/agent/api"
)

// answer is that of one host which was asked for its cluster.
type answer struct {
	by    netip.Addr
	found Found
	err   error
}

// askAll asks all hosts at once, 16 at a time. The returned function ends what is
// under way and waits for it.
func (k *Keeper) askAll(ctx context.Context, from netip.Addr, addrs []netip.Addr, token Token) (answers <-chan answer, end func()) {
	ctx, cancel := context.WithCancel(ctx)
	all := make(chan answer, len(addrs))
	var asking sync.WaitGroup
	limit := make(chan struct{}, maxAtOnce)
	for _, a := range addrs {
		asking.Go(func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			f, err := probe(ctx, from, a, k.Ports.Gossip, token)
			all <- answer{a, f, err}
		})
	}
	return all, func() { cancel(); asking.Wait() }
}

// probeAll takes the first cluster that answers. If none does the error tells of
// each host.
func (k *Keeper) probeAll(ctx context.Context, from netip.Addr, addrs []netip.Addr, token Token) (Found, error) {
	answers, end := k.askAll(ctx, from, addrs, token)
	defer end()
	var errs []error
	for range addrs {
		a := <-answers
		if a.err == nil {
			return a.found, nil
		}
		errs = append(errs, a.err)
	}
	return Found{}, errNotLetIn(errors.Join(errs...))
}

// afterFirst is how long others may still answer once one has: what is found may
// be of two clusters that have the same token, and then none is chosen.
const afterFirst = time.Second

// probeThese asks hosts that a search has found, among them those that answered
// before.
func (k *Keeper) probeThese(found *candidates) asking {
	return func(ctx context.Context, from netip.Addr, addrs []netip.Addr, token Token) (Found, error) {
		return k.probeFound(ctx, from, addrs, token, found.answered)
	}
}

// probeFound asks hosts that nobody has named. What stands in the way may end:
// but for two clusters, the error says that it is worth another try.
func (k *Keeper) probeFound(ctx context.Context, from netip.Addr, addrs []netip.Addr, token Token, answered func(netip.Addr, string) (netip.Addr, bool)) (Found, error) {
	answers, end := k.askAll(ctx, from, addrs, token)
	defer end()
	var first answer
	var late <-chan time.Time
	var errs []error
	for range addrs {
		var a answer
		select {
		case a = <-answers:
		case <-late:
			return first.found, nil
		}
		if a.err != nil {
			errs = append(errs, a.err)
			continue
		}
		if other, differs := answered(a.by, a.found.Cluster); differs {
			return Found{}, errTwo(other, a.by)
		}
		switch {
		case !first.by.IsValid():
			first, late = a, time.After(afterFirst)
		case first.found.Cluster != a.found.Cluster: // and one of them is not remembered
			return Found{}, errTwo(first.by, a.by)
		}
	}
	if first.by.IsValid() {
		return first.found, nil
	}
	err := errors.Join(errs...)
	return Found{}, &api.Error{Code: api.CodeUnavailable, Message: sentence(err), Cause: err}
}

func errTwo(a, b netip.Addr) error {
	return api.Errorf(api.CodeConflict, "two clusters have this token, that of %s and that of %s; join one by address: socketplane cluster join ADDR", a, b)
}

// errNotLetIn says what to do about hosts that were asked in vain.
func errNotLetIn(err error) error {
	text := sentence(err)
	if errors.Is(err, ErrRefused) {
		return &api.Error{Code: api.CodeConflict, Message: text + "; see there: socketplane cluster token", Cause: err}
	}
	return &api.Error{Code: api.CodeUnavailable, Message: text + "; see that the host is in a cluster (socketplane cluster members) and that no firewall is between (docs/cluster.md has the ports)", Cause: err}
}
