package driver

import (
	"net/netip"
	"sync"
	"time"
)

// registry is what is known of Docker's networks besides what Docker itself
// tells: it is made anew from that after a restart.
type registry struct {
	mu       sync.Mutex
	bound    map[string]segment      // Docker's id -> network of the cluster
	pending  map[string]wish         // Docker's id -> made by a user, its name is not known yet
	making   map[netip.Prefix]string // subnet -> network whose Docker network is being made by us
	users    map[string]time.Time    // network -> until when a user's Docker network of it may be in the making
	pools    map[netip.Prefix]string // subnet -> network, as last seen
	unjoined map[string]bool         // endpoints in the making
	changed  chan struct{}           // closed and replaced when bound grows
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
	until   time.Time // when Docker has long told its name, if it ever will
}

func newRegistry() *registry {
	return &registry{
		bound: map[string]segment{}, pending: map[string]wish{}, making: map[netip.Prefix]string{}, users: map[string]time.Time{}, unjoined: map[string]bool{},
		pools: map[netip.Prefix]string{}, changed: make(chan struct{}),
	}
}

func (r *registry) bind(id, network string, subnet netip.Prefix) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bound[id], r.pools[subnet] = segment{network, subnet}, network
	delete(r.pending, id)
	close(r.changed)
	r.changed = make(chan struct{})
}

// forget gives the network that a Docker network stood for; no name: none.
func (r *registry) forget(id string) (network string, subnet netip.Prefix) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.bound[id]
	delete(r.bound, id)
	delete(r.pending, id)
	return s.network, s.subnet
}

func (r *registry) network(id string) (string, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, ok := r.bound[id]
	return s.network, ok
}

func (r *registry) await(id string, w wish) {
	r.mu.Lock()
	defer r.mu.Unlock()
	w.until = time.Now().Add(pendingTime)
	r.pending[id] = w
}

func (r *registry) awaited(id string) (wish, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	w, ok := r.pending[id]
	if ok && time.Now().After(w.until) { // Docker died before it wrote the network down
		delete(r.pending, id)
		return wish{}, false
	}
	return w, ok
}

// pendingTime is how long a network waits for its name.
const pendingTime = 30 * time.Second

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

// expect says that a user makes the Docker network of a network. Docker has it in
// its list a moment after its call has been answered.
func (r *registry) expect(network string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.users[network] = time.Now().Add(expectTime)
}

// expected says whether a user may still be making the Docker network of a network.
func (r *registry) expected(network string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Now().Before(r.users[network]) {
		return true
	}
	delete(r.users, network)
	return false
}

// expectTime is far more than Docker needs to write a network down.
const expectTime = 10 * time.Second

// begin says that we make the Docker network of a network, until done is called.
func (r *registry) begin(subnet netip.Prefix, network string) (done func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.making[subnet] = network
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.making, subnet)
	}
}

func (r *registry) ours(subnet netip.Prefix) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.making[subnet] != ""
}

// beingMade says whether we are making the Docker network of a network.
func (r *registry) beingMade(network string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, name := range r.making {
		if name == network {
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
