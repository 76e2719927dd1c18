package driver

import (
	"context"
	"net/netip"
	"strings"
	"time"

	"github.com/socketplane/socketplane/agent/api"
)

// This part of the registry distinguishes networks that look alike in Docker's calls and
// lists: a Docker network that a user is creating, one that the driver is creating, and
// one that Docker is deleting.

const (
	// expectTime is far longer than Docker needs to store a new network.
	expectTime = 10 * time.Second
	// leaveTime is far longer than Docker needs between hiding a network and calling the
	// driver to delete it.
	leaveTime = 10 * time.Second
	// removedTime is how long the registry remembers the id of a deleted network. No older
	// list or event that contains the network is processed that late.
	removedTime = 2 * time.Minute
)

// expectation is a user's Docker network that is not in Docker's list yet.
type expectation struct {
	id    string
	until time.Time
}

// expect records that a user is creating the Docker network of a network. Docker lists it
// shortly after the driver has answered.
func (r *registry) expect(network, id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, gone := r.removed[id]; !gone {
		r.users[network] = expectation{id, time.Now().Add(expectTime)}
	}
}

// unexpect records that the creation of a user's Docker network failed.
func (r *registry) unexpect(network, id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.users[network].id == id {
		delete(r.users, network)
	}
}

// expected reports whether a user may still be creating the Docker network of a network.
func (r *registry) expected(network string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Now().Before(r.users[network].until) {
		return true
	}
	delete(r.users, network)
	return false
}

// making is a Docker network that the driver has asked Docker to create.
type making struct {
	segment
	id      string // Docker's; set once Docker has called the driver with it
	deleted bool   // Docker has deleted it before it answered us
}

// secondNetwork is part of the error that rejects the second of two Docker networks with
// one subnet. Docker passes the error on.
const secondNetwork = "has just come to this Docker"

// begin records that the driver asks Docker to create the Docker network of a network. The
// caller calls end when Docker has answered, with Docker's error. end reports whether a
// user has removed the network in the meantime.
func (r *registry) begin(subnet netip.Prefix, network string) (end func(err error) (removed bool)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := &making{segment: segment{network, subnet}}
	r.making = m
	return func(err error) bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.making = nil
		// After an error, a deletion is normally Docker's own rollback. The exception is
		// the rejection of our network in favour of a user's.
		return m.deleted && (err == nil || strings.Contains(err.Error(), secondNetwork))
	}
}

// ours reports whether the driver is creating the Docker network of a subnet.
func (r *registry) ours(subnet netip.Prefix) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.making != nil && r.making.subnet == subnet
}

// adopts returns the network for which Docker calls the driver with a subnet, or "" if the
// driver is not creating it. It fails for a second Docker network of the same subnet.
func (r *registry) adopts(id string, subnet netip.Prefix) (network string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.making
	switch {
	case m == nil || m.subnet != subnet:
		return "", nil
	case m.id != "":
		return "", api.Errorf(api.CodeConflict, "network %q has subnet %s and %s; use it, or choose another subnet", m.network, subnet, secondNetwork)
	}
	m.id = id
	return m.network, nil
}

// removes records that the driver has Docker remove a network. Docker then calls the
// driver as it does for a user. The caller calls end when Docker has answered.
func (r *registry) removes(id string) (end func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.removing[id] = true
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.removing, id)
	}
}

// isRemoving reports whether the driver is having Docker remove a network.
func (r *registry) isRemoving(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.removing[id]
}

// enters lets one goroutine at a time enter a Docker network in the cluster. Others wait
// for it. It returns false if Docker has deleted the network or another goroutine has
// entered it. If it returns true, the caller must call done.
func (r *registry) enters(ctx context.Context, id string) (done func(), ok bool, err error) {
	for {
		r.mu.Lock()
		_, gone := r.removed[id]
		_, bound := r.bound[id]
		busy, is := r.entering[id]
		if gone || bound {
			r.mu.Unlock()
			return nil, false, nil
		}
		if !is {
			mine := make(chan struct{})
			r.entering[id] = mine
			r.mu.Unlock()
			return func() {
				r.mu.Lock()
				defer r.mu.Unlock()
				delete(r.entering, id)
				close(mine)
			}, true, nil
		}
		r.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, false, api.Errorf(api.CodeUnavailable, "a Docker network is still being entered in the cluster; try again")
		}
	}
}

// deleted records that Docker deletes a network, and returns the network of the cluster
// that it stood for. The segment is empty if there is none, or none is known yet (see
// making and enter). The network counts as leaving until end is called.
func (r *registry) deleted(id string) (s segment, end func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	for old, at := range r.removed {
		if now.Sub(at) > removedTime {
			delete(r.removed, old)
		}
	}
	r.removed[id] = now
	network, subnet := r.drop(id)
	if r.users[network].id == id {
		delete(r.users, network)
	}
	if r.making != nil && r.making.id == id {
		r.making.deleted = true
		return segment{}, func() {}
	}
	return segment{network, subnet}, r.deletes(network)
}

// deletes records that a network is being deleted from the cluster until end is called.
// The caller holds r.mu.
func (r *registry) deletes(network string) (end func()) {
	r.deleting[network]++
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.deleting[network]--; r.deleting[network] == 0 {
			delete(r.deleting, network)
		}
		close(r.ended)
		r.ended = make(chan struct{})
	}
}

// awaitDeletion waits while this host deletes a network from the cluster, so that whoever
// creates it again does not find the old one.
func (r *registry) awaitDeletion(ctx context.Context, network string) error {
	for {
		r.mu.Lock()
		busy, ended := r.deleting[network] > 0, r.ended
		r.mu.Unlock()
		if !busy {
			return nil
		}
		select {
		case <-ended:
		case <-ctx.Done():
			return api.Errorf(api.CodeUnavailable, "network %q is still being deleted; try again", network)
		}
	}
}

// entered returns a channel that is closed when the attempt to enter a Docker network in
// the cluster ends. It returns nil if there is no attempt.
func (r *registry) entered(id string) <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.entering[id]
}

// deletesLate records the deletion of a network whose Docker network was deleted before it
// was bound. It returns false if another Docker network on this host stands for the
// network, is being entered, or may stand for it once its name is known.
func (r *registry) deletesLate(s segment) (end func(), ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, other := range r.bound {
		if other.network == s.network {
			return nil, false
		}
	}
	now := time.Now()
	for _, w := range r.pending {
		if w.subnet == s.subnet && now.Before(w.until) {
			return nil, false
		}
	}
	if e, expected := r.users[s.network]; expected && now.Before(e.until) {
		if _, gone := r.removed[e.id]; !gone {
			return nil, false
		}
	}
	return r.deletes(s.network), true
}

// listed updates the registry from the ids in Docker's list. asked is the time of the
// request for the list. A user's network that is listed is no longer being created. A
// network without a name that is not listed within pendingTime will never be: Docker died
// before it stored the network.
func (r *registry) listed(ids map[string]bool, asked time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	for id, w := range r.pending {
		switch {
		case ids[id]:
			w.until = now.Add(pendingTime)
			r.pending[id] = w
		case w.until.Before(asked):
			delete(r.pending, id)
		}
	}
	for network, e := range r.users {
		if ids[e.id] {
			delete(r.users, network)
		}
	}
	for id := range r.bound {
		since, missed := r.missing[id]
		switch {
		case ids[id]:
			delete(r.missing, id)
		case !missed:
			r.missing[id] = now
		case now.Sub(since) > removedTime: // Docker has lost it
			r.drop(id)
		}
	}
}

// setCompared records that Docker's list has been processed once.
func (r *registry) setCompared() {
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-r.compared:
	default:
		close(r.compared)
	}
}

// young reports whether a Docker network was created after this driver started, or at most
// youth before. An earlier instance of the driver may have died between Docker's call and
// its event.
func (r *registry) young(created time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return created.After(r.began.Add(-youth))
}

// leaving reports whether Docker is deleting the Docker network of a network: Docker no
// longer lists it, and has not called the driver yet or is waiting for its answer.
func (r *registry) leaving(network string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.deleting[network] > 0 {
		return true
	}
	for id, since := range r.missing {
		if r.bound[id].network == network && time.Since(since) < leaveTime {
			return true
		}
	}
	return false
}
