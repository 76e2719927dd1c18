package driver

import (
	"maps"
	"net/netip"
	"sync"
	"time"

	"github.com/socketplane/socketplane/agent/api"
)

// registry is what is known of Docker's networks besides what Docker itself
// tells: it is made anew from that after a restart.
type registry struct {
	mu       sync.Mutex
	bound    map[string]segment       // Docker's id -> network of the cluster
	pending  map[string]wish          // Docker's id -> made by a user, its name is not known yet
	entering map[string]chan struct{} // Docker's id -> closed when the attempt to enter it in the cluster ends
	removed  map[string]time.Time     // Docker's id -> when Docker deleted it; an id never comes again
	missing  map[string]time.Time     // Docker's id -> since when a bound network is not in Docker's list
	removing map[string]bool          // Docker's ids that we have Docker remove
	deleting map[string]int           // networks that are being deleted from the cluster, since Docker deletes theirs
	making   *making                  // the Docker network that we are making; one at a time
	users    map[string]expectation   // network -> a user's Docker network of it is in the making
	pools    map[netip.Prefix]string  // subnet -> network, as last seen
	unjoined map[string]bool          // endpoints in the making
	changed  chan struct{}            // closed and replaced when bound grows
	began    time.Time                // this life of the driver
	compared chan struct{}            // closed when Docker's list has been read once
	ended    chan struct{}            // closed and replaced when one of deleting ends
}

// segment is a network of the cluster, as it was when a Docker network came to
// stand for it.
type segment struct {
	network string
	subnet  netip.Prefix
}

// wish is the network that a user's Docker network asks for.
type wish struct {
	subnet  netip.Prefix
	gateway netip.Addr
	given   api.DockerSpec
	until   time.Time // when Docker has long listed it, if it ever will
}

func newRegistry() *registry {
	return &registry{
		bound: map[string]segment{}, pending: map[string]wish{}, entering: map[string]chan struct{}{}, removed: map[string]time.Time{},
		missing: map[string]time.Time{}, removing: map[string]bool{}, deleting: map[string]int{}, users: map[string]expectation{}, unjoined: map[string]bool{},
		pools: map[netip.Prefix]string{}, changed: make(chan struct{}), compared: make(chan struct{}), ended: make(chan struct{}),
		began: time.Now(),
	}
}

// bind says which network a Docker network stands for. False: Docker has deleted
// it meanwhile.
func (r *registry) bind(id, network string, subnet netip.Prefix) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.pending, id)
	if _, gone := r.removed[id]; gone {
		return false
	}
	r.bound[id], r.pools[subnet] = segment{network, subnet}, network
	close(r.changed)
	r.changed = make(chan struct{})
	return true
}

// forget gives the network that a Docker network stood for; no name: none.
func (r *registry) forget(id string) (network string, subnet netip.Prefix) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.drop(id)
}

func (r *registry) drop(id string) (network string, subnet netip.Prefix) {
	s := r.bound[id]
	delete(r.bound, id)
	delete(r.pending, id)
	delete(r.missing, id)
	return s.network, s.subnet
}

func (r *registry) network(id string) (string, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, ok := r.bound[id]
	return s.network, ok
}

// await says that a network waits for its name. It fails when another Docker network
// has its subnet: both may have been allowed to ask for it at the same moment.
func (r *registry) await(id string, w wish) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for other, s := range r.bound {
		if other != id && s.subnet == w.subnet {
			return api.Errorf(api.CodeConflict, "network %q has subnet %s and %s; use it, or choose another subnet", s.network, w.subnet, secondNetwork)
		}
	}
	for other, p := range r.pending {
		if other != id && p.subnet.Overlaps(w.subnet) && time.Now().Before(p.until) {
			return api.Errorf(api.CodeConflict, "subnet %s was just given to another network; choose another", w.subnet)
		}
	}
	w.until = time.Now().Add(pendingTime)
	r.pending[id] = w
	return nil
}

// awaited gives what a network asks for that waits for its name. However long that
// lasts: who tells the name may be held up, and the cluster may be away. See listed.
func (r *registry) awaited(id string) (wish, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	w, ok := r.pending[id]
	return w, ok
}

// pendingTime is how long a network that is not in Docker's list keeps its subnet while
// it waits for its name.
const pendingTime = 30 * time.Second

// waiting says whether any network waits for its name.
func (r *registry) waiting() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.pending) > 0
}

// anyAwaited says whether a network of a subnet waits for its name.
func (r *registry) anyAwaited(subnet netip.Prefix) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, w := range r.pending {
		if w.subnet == subnet && time.Now().Before(w.until) {
			return true
		}
	}
	return false
}

// begun says that Docker makes an endpoint; until it has joined a container, or
// is deleted, it is in the making.
func (r *registry) begun(endpoint string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unjoined[endpoint] = true
}

// settled says that an endpoint is not in the making any more.
func (r *registry) settled(endpoint string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.unjoined, endpoint)
}

// inTheMaking says whether Docker makes an endpoint just now. Of those of an
// earlier life of the agent it is not known: they count as left over.
func (r *registry) inTheMaking(endpoint string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.unjoined[endpoint]
}

// allInTheMaking lists the endpoints that Docker makes just now.
func (r *registry) allInTheMaking() map[string]bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.unjoined)
}

// has says whether Docker here has the network of a subnet.
func (r *registry) has(subnet netip.Prefix) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.bound {
		if s.subnet == subnet {
			return true
		}
	}
	return false
}

// pool gives the network that had a subnet when it was last seen.
func (r *registry) pool(subnet netip.Prefix) (string, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n, ok := r.pools[subnet]
	return n, ok
}

// setPools takes what the cluster has.
func (r *registry) setPools(pools map[netip.Prefix]string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pools = pools
}

// grown gives a channel that is closed when another network is bound.
func (r *registry) grown() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}
