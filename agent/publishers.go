package agent

import (
	"context"
	"time"
)

// foreignWrites records how often, and when last, another writer replaced a list of this
// host.
type foreignWrites struct {
	count int
	last  time.Time
}

// droppedWrites sums up the counts that are no longer kept per network.
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

// maxForeign bounds the counts kept for networks that are not in use here, because an
// attacker can choose among all names.
const maxForeign = 64

// publisher returns the publisher of this host's list on a network. It stays in
// a.publishers until done is called.
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

// ownLists returns the publishers of this host's lists, by network.
func (a *Agent) ownLists() map[string]*publisher {
	a.pubMu.Lock()
	defer a.pubMu.Unlock()
	all := make(map[string]*publisher, len(a.publishers))
	for id, p := range a.publishers {
		all[id] = p
	}
	return all
}

// distrust makes the publisher read the list again before the next write.
// forgetPublishers may have removed the publisher in the meantime. distrust puts it back,
// because it knows what this host wrote.
func (a *Agent) distrust(networkID string, p *publisher) {
	a.pubMu.Lock()
	defer a.pubMu.Unlock()
	if a.publishers[networkID] == nil {
		a.publishers[networkID] = p
	}
	a.publishers[networkID].recheck.Store(true)
}

// forgetPublishers removes the publishers of absent lists on networks where this host has
// no endpoints, because each costs a read of the store in every full comparison. It keeps
// the counts of writes by others.
func (a *Agent) forgetPublishers() {
	used := map[string]bool{}
	for _, l := range a.table.all() {
		used[l.Network] = true
	}
	a.pubMu.Lock()
	defer a.pubMu.Unlock()
	for id, p := range a.publishers {
		// Only counted users start a run, so an idle publisher stays idle.
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

// foreignLists returns the counts of writes by others to this host's lists, by network,
// and the sum of the dropped counts.
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
