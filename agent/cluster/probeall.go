package cluster

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"

	"github.com/socketplane/socketplane/agent/api"
)

// answer is the result of probing one host.
type answer struct {
	by    netip.Addr
	found Found
	err   error
}

// askAll probes all hosts concurrently, at most 16 at a time. The returned function
// cancels the running probes and waits for them.
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

// probeAll returns the first cluster that answers. If none answers, the error describes
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

// afterFirst is how long probeFound waits for more answers after the first one. The hosts
// may be in two clusters with the same token; then it chooses none.
const afterFirst = time.Second

// probeThese returns a function that probes hosts found by a search. It also considers
// earlier answers.
func (k *Keeper) probeThese(found *candidates) asking {
	return func(ctx context.Context, from netip.Addr, addrs []netip.Addr, token Token) (Found, error) {
		return k.probeFound(ctx, from, addrs, token, found.answered)
	}
}

// probeFound probes hosts that the user did not name. Except for two clusters with one
// token, the obstacle may be temporary, so the error has the code for a retry.
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
		case first.found.Cluster != a.found.Cluster: // one of the hosts is no longer in candidates
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

// errNotLetIn returns an error that advises how to fix the failed probes.
func errNotLetIn(err error) error {
	text := sentence(err)
	if errors.Is(err, ErrRefused) {
		return &api.Error{Code: api.CodeConflict, Message: text + "; see there: socketplane cluster token", Cause: err}
	}
	return &api.Error{Code: api.CodeUnavailable, Message: text + "; see that the host is in a cluster (socketplane cluster members) and that no firewall is between (docs/cluster.md has the ports)", Cause: err}
}
