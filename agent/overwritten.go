package agent

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/cluster"
	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/agent/state"
)

// overwrittenFor is how long Status reports a problem after another writer replaced one
// of this host's keys and the agent restored it. The count remains.
const overwrittenFor = 15 * time.Second

// lookAtOwn restores the keys that only this host writes, its record and its endpoint
// lists, when a snapshot shows that somebody else wrote them.
func (a *Agent) lookAtOwn(part string, snap state.Snapshot) {
	values := map[string][]byte{}
	for _, e := range snap.Entries {
		if strings.HasSuffix(e.Key, "/"+a.id) {
			values[e.Key] = e.Value
		}
	}
	switch {
	case part == partHosts && a.Membership != nil:
		a.Membership.Saw(values[cluster.HostsPrefix+a.id])
	case part == partEndpoints && a.isLoaded():
		a.lookForStrays(values)
		for id, p := range a.ownLists() {
			if !p.own.Is(values[network.EndpointsKey(id, a.id)]) {
				a.distrust(id, p)
				a.errands.run(applyTimeout, func(ctx context.Context) {
					if err := a.publish(ctx, id); err != nil {
						signal(a.kick)
					}
				})
			}
		}
	}
}

// maxStrays bounds how many strays are handled at once, because an attacker can write any
// number of them.
const maxStrays = 32

// lookForStrays finds endpoint lists in this host's name on networks where it has no
// endpoints. They would attract packets to this host and prevent the deletion of the
// network. It creates a publisher for each, which removes the list.
func (a *Agent) lookForStrays(values map[string][]byte) {
	known := a.ownLists()
	strays := 0
	for _, key := range slices.Sorted(maps.Keys(values)) {
		if strays == maxStrays {
			return // removing these causes a new snapshot, which shows the rest
		}
		id, _, _ := strings.Cut(strings.TrimPrefix(key, network.EndpointsPrefix), "/")
		if known[id] == nil && !a.isBlocked(id) && len(a.table.on(id)) == 0 && api.CheckNetworkName(id) == nil {
			p, done := a.publisher(id)
			p.own.Wrote(nil)
			done()
			strays++
		}
	}
}

// maxOverwritten bounds how many keys are listed individually. Anybody with access to the
// store can write lists in this host's name for any number of networks.
const maxOverwritten = 20

// overwritten lists this host's keys that somebody else wrote: the host record, and then
// the lists that were written most recently. One more entry sums up the rest.
func (a *Agent) overwritten() []api.Overwritten {
	var list []api.Overwritten
	add := func(key string, count int, last time.Time) {
		if count > 0 {
			list = append(list, api.Overwritten{Key: key, Count: count, Last: last.UTC().Truncate(time.Second)})
		}
	}
	if a.Membership != nil {
		count, last := a.Membership.Overwritten()
		add(cluster.HostsPrefix+a.id, count, last)
	}
	lists, dropped := a.foreignLists()
	for id, f := range lists {
		add(network.EndpointsKey(id, a.id), f.count, f.last)
	}
	record := cluster.HostsPrefix + a.id
	slices.SortFunc(list, func(x, y api.Overwritten) int {
		if is := x.Key == record; is != (y.Key == record) {
			if is {
				return -1
			}
			return 1
		}
		return cmp.Or(y.Last.Compare(x.Last), strings.Compare(x.Key, y.Key))
	})
	for _, o := range list[min(maxOverwritten, len(list)):] {
		dropped.add(foreignWrites{o.Count, o.Last})
	}
	list = list[:min(maxOverwritten, len(list))]
	slices.SortFunc(list, func(x, y api.Overwritten) int { return strings.Compare(x.Key, y.Key) })
	if dropped.count > 0 {
		add(fmt.Sprintf("%s* (%d more)", network.EndpointsPrefix, dropped.lists), dropped.count, dropped.last)
	}
	return list
}

// overwrittenNow returns a problem for each key that was overwritten within
// overwrittenFor.
func overwrittenNow(list []api.Overwritten, now time.Time) []string {
	var problems []string
	for _, o := range list {
		if now.Sub(o.Last) < overwrittenFor {
			problems = append(problems, fmt.Sprintf("somebody else wrote key %s, which is this host's alone; it was put right. Count since the agent began: %d, last at %s. "+
				"Somebody beside this cluster's hosts can write the store, or one of them is hostile", o.Key, o.Count, o.Last.Format(time.TimeOnly)))
		}
	}
	return problems
}
