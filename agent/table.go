package agent

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/link"
	"github.com/socketplane/socketplane/ipam"
)

// local is an endpoint of this host. Values are replaced, never modified, so that a
// reader may keep one without a lock.
type local struct {
	endpoint
	Network   string
	Port      string // OVS port; empty while not attached
	OFPort    int    // 0 while not attached
	NetNS     string // namespace path at the time of the attach; it may now refer to another namespace
	Releasing bool   // the owner is gone, and the address must be released
	Dirty     bool   // not attached, but something of the interface may be left
	Evicted   bool   // its address was given to another owner while this host was away
	Served    bool   // ports were unpublished; connections to them may continue
	Turn      int    // attach order among the endpoints of a container, from 0
	Doubt     bool   // the store did not confirm the address; a write may still be in progress

	pool    ipam.Pool // where the address is from; zero: the current pool of the network
	version uint64    // of the network's record when the address was allocated; 0 if unknown
	since   time.Time // when it was reserved; zero if before the agent's start
	again   time.Time // when to release again if Doubt; zero if not released yet
}

// table holds the endpoints of this host by id. The lock on an endpoint (see Agent.names)
// controls who may change it. mu only keeps the map and the indexes consistent. A lookup
// of one endpoint, or of those of one network or container, does not scan the others.
type table struct {
	mu          sync.Mutex
	byID        map[string]local
	byPort      map[string]string // name of the port when attached -> id
	byNetwork   index
	byContainer index
	publishing  map[string]bool // ids of endpoints that publish ports, attached or not
}

// index holds sets of endpoint ids by a key.
type index map[string]map[string]bool

func (x index) add(key, id string) {
	if x[key] == nil {
		x[key] = map[string]bool{}
	}
	x[key][id] = true
}

func (x index) remove(key, id string) {
	if delete(x[key], id); len(x[key]) == 0 {
		delete(x, key)
	}
}

func newTable() *table {
	return &table{
		byID: map[string]local{}, byPort: map[string]string{}, byNetwork: index{}, byContainer: index{}, publishing: map[string]bool{},
	}
}

func (t *table) get(id string) (local, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	l, ok := t.byID[id]
	return l, ok
}

// atPort returns the endpoint that has the port when it is attached.
func (t *table) atPort(name string) (local, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	l, ok := t.byID[t.byPort[name]]
	return l, ok
}

func (t *table) put(l local) {
	t.mu.Lock()
	defer t.mu.Unlock()
	old, ok := t.byID[l.ID]
	t.byID[l.ID] = l
	if !ok {
		t.byPort[link.HostName(l.ID)] = l.ID
	}
	if !ok || old.Network != l.Network {
		t.byNetwork.remove(old.Network, l.ID)
		t.byNetwork.add(l.Network, l.ID)
	}
	if !ok || old.container() != l.container() {
		t.byContainer.remove(old.container(), l.ID)
		t.byContainer.add(l.container(), l.ID)
	}
	if len(l.Ports) != 0 {
		t.publishing[l.ID] = true
	} else {
		delete(t.publishing, l.ID)
	}
}

func (t *table) remove(id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	l, ok := t.byID[id]
	if !ok {
		return
	}
	delete(t.byID, id)
	delete(t.byPort, link.HostName(id))
	t.byNetwork.remove(l.Network, id)
	t.byContainer.remove(l.container(), id)
	delete(t.publishing, id)
}

// all lists the endpoints, sorted by container, then by id.
func (t *table) all() []local {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := make([]local, 0, len(t.byID))
	for _, l := range t.byID {
		list = append(list, l)
	}
	sortLocals(list)
	return list
}

// on lists the endpoints on a network, in the order of all.
func (t *table) on(network string) []local {
	list := t.of(func() map[string]bool { return t.byNetwork[network] })
	sortLocals(list)
	return list
}

// published lists the endpoints that publish ports, in no order.
func (t *table) published() []local {
	return t.of(func() map[string]bool { return t.publishing })
}

// of lists the endpoints in an index's set, in no order.
func (t *table) of(set func() map[string]bool) []local {
	t.mu.Lock()
	defer t.mu.Unlock()
	ids := set()
	if len(ids) == 0 {
		return nil
	}
	list := make([]local, 0, len(ids))
	for id := range ids {
		list = append(list, t.byID[id])
	}
	return list
}

// networks lists the networks with endpoints.
func (t *table) networks() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Collect(maps.Keys(t.byNetwork))
}

func sortLocals(list []local) {
	slices.SortFunc(list, func(a, b local) int {
		return cmp.Or(strings.Compare(a.container(), b.container()), strings.Compare(a.ID, b.ID))
	})
}

// find looks an endpoint up by its id, by its container's id or name, or by a unique
// prefix of an id. If a container has several endpoints, find returns the first.
func (t *table) find(ref string) (local, error) {
	if l, ok := t.get(ref); ok && !l.Releasing {
		return l, nil
	}
	var found []local
	for _, l := range t.all() {
		if l.Releasing {
			continue
		}
		if l.ContainerName == ref || l.ContainerID == ref {
			return l, nil
		}
		if strings.HasPrefix(l.ID, ref) || strings.HasPrefix(l.ContainerID, ref) {
			found = append(found, l)
		}
	}
	switch len(found) {
	case 0:
		return local{}, api.Errorf(api.CodeNotFound, "container %q has no endpoint on this host; see: socketplane info", ref)
	case 1:
		return found[0], nil
	}
	return local{}, api.Errorf(api.CodeInvalid, "container %q could be %d endpoints of this host; give more of the id", ref, len(found))
}
