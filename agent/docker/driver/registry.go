package driver

import (
	"maps"
	"net/netip"
	"sync"
	"time"

	"github.com/socketplane/socketplane/agent/api"
)

// registry holds what the driver knows about Docker's networks beyond Docker's own list.
// It is rebuilt from that list after a restart.
type registry struct {
	mu       sync.Mutex
	bound    map[string]segment       // Docker's id -> network of the cluster
	pending  map[string]wish          // Docker's id -> wish of a user's network whose name is not known yet
	entering map[string]chan struct{} // Docker's id -> closed when the attempt to enter it in the cluster ends
	removed  map[string]time.Time     // Docker's id -> when Docker deleted it; Docker never reuses an id
	missing  map[string]time.Time     // Docker's id -> since when a bound network is not in Docker's list
	removing map[string]bool          // Docker's ids that the driver has Docker remove
	deleting map[string]int           // networks that are being deleted from the cluster because Docker deletes theirs
	making   *making                  // the Docker network that the driver is creating; one at a time
	users    map[string]expectation   // network -> its Docker network that a user is creating
	pools    map[netip.Prefix]string  // subnet -> network, as last seen
	unjoined map[string]bool          // endpoints that Docker is creating
	changed  chan struct{}            // closed and replaced when bound grows
	began    time.Time                // when this driver started
	compared chan struct{}            // closed when Docker's list has been processed once
	ended    chan struct{}            // closed and replaced when a deletion in deleting ends
}

// segment is a network of the cluster as it was when a Docker network was bound to it.
type segment struct {
	network string
	subnet  netip.Prefix
}

// wish is the network that a user's Docker network requests.
type wish struct {
	subnet  netip.Prefix
	gateway netip.Addr
	given   api.DockerSpec
	until   time.Time // when Docker must have listed it, if it ever will
}

func newRegistry() *registry {
	return &registry{
		bound: map[string]segment{}, pending: map[string]wish{}, entering: map[string]chan struct{}{}, removed: map[string]time.Time{},
		missing: map[string]time.Time{}, removing: map[string]bool{}, deleting: map[string]int{}, users: map[string]expectation{}, unjoined: map[string]bool{},
		pools: map[netip.Prefix]string{}, changed: make(chan struct{}), compared: make(chan struct{}), ended: make(chan struct{}),
		began: time.Now(),
	}
}

// bind records which network a Docker network stands for. It returns false if Docker has
// deleted the Docker network in the meantime.
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

// forget removes a Docker network from the registry and returns the network that it stood
// for. The name is empty if there was none.
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

// await records that a network waits for its name. It fails if another Docker network has
// its subnet: both may have requested the subnet at the same moment.
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

// awaited returns the wish of a network that waits for its name. There is no time limit,
// because the event with the name may be delayed and the cluster may be unavailable. See
// listed.
func (r *registry) awaited(id string) (wish, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	w, ok := r.pending[id]
	return w, ok
}

// pendingTime is how long an unlisted network keeps its subnet while it waits for its
// name.
const pendingTime = 30 * time.Second

// waiting reports whether any network waits for its name.
func (r *registry) waiting() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.pending) > 0
}

// anyAwaited reports whether a network with this subnet waits for its name.
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

// begun records that Docker is creating an endpoint. The creation ends when the endpoint
// has joined a container or is deleted.
func (r *registry) begun(endpoint string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unjoined[endpoint] = true
}

// settled records that Docker is no longer creating an endpoint.
func (r *registry) settled(endpoint string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.unjoined, endpoint)
}

// inTheMaking reports whether Docker is creating an endpoint. It returns false for
// endpoints from before a restart of the agent, so they count as leftovers.
func (r *registry) inTheMaking(endpoint string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.unjoined[endpoint]
}

// allInTheMaking returns the endpoints that Docker is creating.
func (r *registry) allInTheMaking() map[string]bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.unjoined)
}

// has reports whether Docker on this host has the network of a subnet.
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

// pool returns the network that had a subnet when it was last seen.
func (r *registry) pool(subnet netip.Prefix) (string, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n, ok := r.pools[subnet]
	return n, ok
}

// setPools replaces the known networks of the cluster.
func (r *registry) setPools(pools map[netip.Prefix]string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pools = pools
}

// grown returns a channel that is closed when another network is bound.
func (r *registry) grown() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}
