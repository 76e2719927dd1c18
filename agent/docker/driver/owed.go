package driver

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/socketplane/socketplane/agent/api"
)

const (
	// owedEvery paces the tries to give back what Docker gave back in vain.
	owedEvery = time.Second
	// owedFor is how long they go on. After that the sweep finds an endpoint, and
	// a hold has ended by itself.
	owedFor = 2 * time.Minute
	// owedMost bounds what is remembered.
	owedMost = 4096
)

// owed are the addresses that Docker gave back when the agent could not take
// them: Docker warns of it in its log and never asks again.
type owed struct {
	mu   sync.Mutex
	all  []debt
	wake chan struct{}
}

type debt struct {
	addressRelease
	until time.Time
}

func newOwed() *owed { return &owed{wake: make(chan struct{}, 1)} }

func (o *owed) add(r addressRelease, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.all) < owedMost {
		o.all = append(o.all, debt{addressRelease: r, until: now.Add(owedFor)})
	}
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// paid forgets that an address is owed: Docker was given it anew, or it is back.
func (o *owed) paid(r addressRelease) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.all = slices.DeleteFunc(o.all, func(d debt) bool { return d.addressRelease == r })
}

func (o *owed) list() []debt {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.all)
}

// payOwed gives back what is owed, until ctx ends.
func (d *Driver) payOwed(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.owed.wake:
		}
		for {
			for _, debt := range d.owed.list() {
				d.pay(ctx, debt)
			}
			if len(d.owed.list()) == 0 {
				break
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(owedEvery):
			}
		}
	}
}

func (d *Driver) pay(ctx context.Context, debt debt) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := d.giveBack(ctx, debt.addressRelease)
	if err == nil || time.Now().After(debt.until) || final(err) {
		d.owed.paid(debt.addressRelease)
		d.Logger.Info("an address that Docker gave back in vain", "ip", debt.Address, "pool", debt.PoolID, "err", err)
	}
}

// final says whether asking again cannot help.
func final(err error) bool {
	switch api.CodeOf(err) {
	case api.CodeInvalid, api.CodeNotFound:
		return true
	}
	return false
}
