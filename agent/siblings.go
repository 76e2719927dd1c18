package agent

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/link"
)

// Siblings are the endpoints of one container. Some runtimes request the same published
// ports on each network of a container. Those ports lead to the endpoint that was
// attached first: it has the default route, by which replies leave. When that endpoint is
// detached, the next one takes over.

// siblings lists the other endpoints of the same container, in no order.
func (t *table) siblings(l local) []local {
	t.mu.Lock()
	defer t.mu.Unlock()
	var list []local
	for id := range t.byContainer[l.container()] {
		if s := t.byID[id]; id != l.ID && !s.Releasing {
			list = append(list, s)
		}
	}
	return list
}

// before reports whether l was attached before s, both of one container.
func (l local) before(s local) bool {
	return cmp.Or(cmp.Compare(l.Turn, s.Turn), strings.Compare(l.ID, s.ID)) < 0
}

// nextTurn returns the turn of an endpoint that is being attached.
func (a *Agent) nextTurn(l local) int {
	turn := 0
	for _, s := range a.table.siblings(l) {
		if s.Attached {
			turn = min(max(turn, s.Turn+1), maxTurn)
		}
	}
	return turn
}

// sharing lists the siblings that may reserve the same host ports, because they map those
// to the same ports of the container.
func (a *Agent) sharing(l local) []string {
	if len(l.Ports) == 0 {
		return nil
	}
	var ids []string
	for _, s := range a.table.siblings(l) {
		if len(s.Ports) != 0 && !contradict(l, s) {
			ids = append(ids, s.ID)
		}
	}
	return ids
}

// contradict reports whether two endpoints map one host port to different ports.
func contradict(l, s local) bool {
	for _, p := range l.published() {
		for _, q := range s.published() {
			if hostPort(p).Clashes(hostPort(q)) && !sameMapping(p, q) {
				return true
			}
		}
	}
	return false
}

func sameMapping(p, q api.PortMapping) bool {
	p.HostIP, q.HostIP = anyAddress(p.HostIP), anyAddress(q.HostIP)
	return p == q
}

// led returns the ports that lead to an endpoint: its published ports, except those that
// lead to a sibling.
func (a *Agent) led(l local) []api.PortMapping {
	ports := l.published()
	if !l.Attached || len(ports) == 0 {
		return ports
	}
	for _, s := range a.table.siblings(l) {
		if !s.Attached || !s.before(l) {
			continue
		}
		theirs := s.published()
		ports = slices.DeleteFunc(slices.Clone(ports), func(p api.PortMapping) bool {
			return p.HostPort != 0 && slices.ContainsFunc(theirs, func(q api.PortMapping) bool { return sameMapping(p, q) })
		})
	}
	if len(ports) == 0 {
		return nil
	}
	return ports
}

// takeOverTimeout bounds the work of one takeOver.
const takeOverTimeout = 5 * time.Second

// takeOver makes the next endpoint of a container replace one that was detached. The
// default route disappeared with the old one, and the published ports now lead to the
// next. takeOver works in the background, because the caller holds another endpoint's
// lock.
func (a *Agent) takeOver(gone local) {
	var next *local
	for _, s := range a.table.siblings(gone) {
		if s.Attached && (next == nil || s.before(*next)) {
			next = &s
		}
	}
	if next == nil || next.NetNS == "" || next.handedOver() {
		return
	}
	id := next.ID
	a.errands.run(takeOverTimeout, func(ctx context.Context) {
		unlock, err := a.names.Lock(ctx, link.HostName(id))
		if err != nil {
			return
		}
		defer unlock()
		l, ok := a.table.get(id)
		if !ok || !l.Attached {
			return // the whole container is ending
		}
		r := a.recordHere(l.Network)
		if err := a.configure(ctx, l, r, l.NetNS); err != nil {
			a.Logger.Info("the default route is not given to the next interface", "endpoint", id, "container", l.ContainerName, "err", err)
		}
		if err := a.openPorts(ctx, l); err != nil {
			a.Logger.Warn("published ports do not lead to the next interface yet; trying on", "endpoint", id, "container", l.ContainerName, "err", err)
			signal(a.kick)
		}
	})
}
