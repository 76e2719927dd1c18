package agent

import (
	"context"
	"time"
)

// foreignWrites is how often, and when last, somebody else wrote a list of ours.
type foreignWrites struct {
	count int
	last  time.Time
}

// droppedWrites is the sum of counts that are not kept by network any more.
type droppedWrites struct {
	foreignWrites
	lists int
}

func (d *droppedWrites) add(f foreignWrites) {
	d.lists++
	d.count += f.count
	if f.last.After(d.last) {
		d.last = f.last
	}
}

// maxForeign bounds the counts that are kept of networks that are not used here:
// whoever writes our lists can choose among all names.
const maxForeign = 64

// publisher gives the writer of our list on a network, and keeps it until done is
// called.
func (a *Agent) publisher(networkID string) (p *publisher, done func()) {
	a.pubMu.Lock()
	defer a.pubMu.Unlock()
	p = a.publishers[networkID]
	if p == nil {
		p = &publisher{}
		p.runs = newCoalescer(a.errands, applyTimeout, func(ctx context.Context) error { return a.write(ctx, networkID, p) })
		a.publishers[networkID] = p
	}
	p.users++
	return p, func() {
		a.pubMu.Lock()
		defer a.pubMu.Unlock()
		p.users--
	}
}

// ownLists gives the writers of this host's lists, by network.
func (a *Agent) ownLists() map[string]*publisher {
	a.pubMu.Lock()
	defer a.pubMu.Unlock()
	all := make(map[string]*publisher, len(a.publishers))
	for id, p := range a.publishers {
		all[id] = p
	}
	return all
}

// distrust has a list read before it is written again. The writer may have been
// forgotten since it was looked at, and must not be: it knows what is ours.
func (a *Agent) distrust(networkID string, p *publisher) {
	a.pubMu.Lock()
	defer a.pubMu.Unlock()
	if a.publishers[networkID] == nil {
		a.publishers[networkID] = p
	}
	a.publishers[networkID].recheck.Store(true)
}

// forgetPublishers forgets the writers of lists that are not there, for networks where
// this host has nothing: each costs a read of the store whenever everything is
// compared. How often somebody else wrote such a list is kept.
func (a *Agent) forgetPublishers() {
	used := map[string]bool{}
	for _, l := range a.table.all() {
		used[l.Network] = true
	}
	a.pubMu.Lock()
	defer a.pubMu.Unlock()
	for id, p := range a.publishers {
		// Nobody begins a run but who is counted, so what is idle stays so.
		if used[id] || p.users > 0 || p.recheck.Load() || !p.runs.idle() || !p.known || p.version != 0 {
			continue
		}
		if count, last := p.own.Overwritten(); count > 0 {
			a.foreign[id] = foreignWrites{a.foreign[id].count + count, last}
		}
		delete(a.publishers, id)
	}
	for len(a.foreign) > maxForeign {
		oldest := ""
		for id, f := range a.foreign {
			if oldest == "" || f.last.Before(a.foreign[oldest].last) {
				oldest = id
			}
		}
		a.dropped.add(a.foreign[oldest])
		delete(a.foreign, oldest)
	}
}

// foreignLists says how often somebody else wrote which list of ours, by network, and
// how often all those whose counts were dropped.
func (a *Agent) foreignLists() (map[string]foreignWrites, droppedWrites) {
	a.pubMu.Lock()
	defer a.pubMu.Unlock()
	all := make(map[string]foreignWrites, len(a.foreign)+len(a.publishers))
	for id, f := range a.foreign {
		all[id] = f
	}
	for id, p := range a.publishers {
		if count, last := p.own.Overwritten(); count > 0 {
			all[id] = foreignWrites{all[id].count + count, last}
		}
	}
	return all, a.dropped
}
