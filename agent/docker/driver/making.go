package driver

import (
	"context"
	"net/netip"
	"strings"
	"time"

	"github.com/socketplane/socketplane/agent/api"
)

// This part of the registry tells apart what looks alike in Docker's calls and
// lists: a Docker network that is being made by a user, one that we are making, and
// one that Docker is deleting.

const (
	// expectTime is far more than Docker needs to write a network down.
	expectTime = 10 * time.Second
	// leaveTime is far more than Docker needs from hiding a network to telling
	// the driver to delete it.
	leaveTime = 10 * time.Second
	// removedTime is how long a deleted network's id is remembered. Nothing that
	// still knows the network from an older list or event takes as long.
	removedTime = 2 * time.Minute
)

// expectation is a user's Docker network that is not in Docker's list yet.
type expectation struct {
	id    string
	until time.Time
}

// expect says that a user makes the Docker network of a network. Docker has it in
// its list a moment after its call has been answered.
func (r *registry) expect(network, id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, gone := r.removed[id]; !gone {
		r.users[network] = expectation{id, time.Now().Add(expectTime)}
	}
}

// unexpect says that a user's Docker network could not be made.
func (r *registry) unexpect(network, id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.users[network].id == id {
		delete(r.users, network)
	}
}

// expected says whether a user may still be making the Docker network of a network.
func (r *registry) expected(network string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Now().Before(r.users[network].until) {
		return true
	}
	delete(r.users, network)
	return false
}

// making is a Docker network that we have asked Docker for.
type making struct {
	segment
	id      string // Docker's, once it has called the driver
	deleted bool   // Docker has deleted it before it answered us
}

// secondNetwork is in the sentence by which the second of two is refused. Docker
// hands it on.
const secondNetwork = "has just come to this Docker"

// begin says that we make the Docker network of a network. The returned end says
// that Docker has answered us, with or without an error, and tells whether a user has
// removed the network before that.
func (r *registry) begin(subnet netip.Prefix, network string) (end func(err error) (removed bool)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := &making{segment: segment{network, subnet}}
	r.making = m
	return func(err error) bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.making = nil
		// After an error Docker took back what it could not write down, unless ours is
		// the one that was refused, and the other is a user's.
		return m.deleted && (err == nil || strings.Contains(err.Error(), secondNetwork))
	}
}

// ours says whether we are making the Docker network of a subnet.
func (r *registry) ours(subnet netip.Prefix) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.making != nil && r.making.subnet == subnet
}

// adopts says for which network of ours Docker calls the driver with a subnet;
// empty: for none. It fails for a second Docker network of one subnet.
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

// removes says that we have Docker remove a network. It calls the driver for it as
// it does for a user. The returned end says that Docker has answered.
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

// isRemoving says whether we have Docker remove a network.
func (r *registry) isRemoving(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.removing[id]
}

// enters lets one goroutine at a time enter a Docker network in the cluster; who
// comes later waits for it. False: Docker has deleted it, or the other entered it.
// The caller calls done in the end.
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

// deleted says that Docker deletes a network, and gives what it stood for; no name:
// nothing, or nothing that is known yet, see making and enter. Until end is called
// that network counts as leaving.
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

// deletes says that a network is being deleted from the cluster, until end is called.
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

// awaitDeletion waits while this host deletes a network from the cluster: who makes
// it anew must not find the old one.
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

// entered gives a channel that is closed when nobody is entering a Docker network
// in the cluster any more; nil: nobody is.
func (r *registry) entered(id string) <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.entering[id]
}

// deletesLate says that a network is being deleted whose Docker network went before
// it was known what it stood for. False: by now another Docker network here stands for
// it, or is being entered, or may stand for it once its name is known.
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

// listed takes the ids in Docker's list, and when it was asked for. A user's network
// that is in it is no longer in the making. One that waits for its name, and has not
// come into the list in its time, never will: Docker died before it wrote it down.
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

// setCompared says that what Docker's list tells is known.
func (r *registry) setCompared() {
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-r.compared:
	default:
		close(r.compared)
	}
}

// young says whether a Docker network was made so shortly before this life of the
// driver, or since, that an earlier life may have died between Docker's call and its event.
func (r *registry) young(created time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return created.After(r.began.Add(-youth))
}

// leaving says whether Docker is deleting the Docker network of a network: it is not
// in Docker's list any more, and the driver has not been told yet, or has not
// answered.
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
