package driver

import (
	"context"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/docker"
)

// slowly gives Docker's list of networks some time after Docker has made it.
type slowly struct {
	*modelDocker
	read chan struct{} // receives when a list was made
}

const listTime = 100 * time.Millisecond

func (s slowly) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := s.modelDocker.RoundTrip(r)
	if strings.HasSuffix(r.URL.Path, "/networks") {
		select {
		case s.read <- struct{}{}:
		default:
		}
		time.Sleep(listTime)
	}
	return answer, err
}

// outage is a cluster whose store can be away.
type outage struct {
	*modelCluster
	away atomic.Bool
}

func (o *outage) Networks(ctx context.Context) ([]api.Network, error) {
	if o.away.Load() {
		return nil, api.Errorf(api.CodeUnavailable, "the store is away")
	}
	return o.modelCluster.Networks(ctx)
}

func (o *outage) CreateNetwork(ctx context.Context, req api.CreateNetworkRequest) (api.Network, error) {
	if o.away.Load() {
		return api.Network{}, api.Errorf(api.CodeUnavailable, "the store is away")
	}
	return o.modelCluster.CreateNetwork(ctx, req)
}

// wishing is a world whose driver compares by itself, and to which nobody tells
// Docker's events: who does is held up.
type wishing struct {
	*world
	store *outage
	read  chan struct{}
	end   func()
}

func newWishing(t *testing.T) *wishing {
	w := newWorld(t)
	w.release()
	return &wishing{world: w, store: &outage{modelCluster: w.cluster}, read: make(chan struct{}), end: func() {}}
}

// lives begins another life of the driver.
func (w *wishing) lives(t *testing.T) {
	t.Helper()
	w.end()
	engine, err := docker.DialOver(slowly{w.docker, w.read})
	if err != nil {
		t.Fatal(err)
	}
	w.driver = New(Config{Service: w.store, Logger: newTestDriver(nil).Logger})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); w.driver.follow(ctx, engine) }()
	w.end = func() { cancel(); <-ended }
}

func (w *wishing) create(t *testing.T, name string) {
	t.Helper()
	if _, err := w.docker.create(modelNetwork{name: name, subnet: modelSubnets[name]}, false); err != nil {
		t.Fatal(err)
	}
}

func (w *wishing) wantThere(t *testing.T, name string) {
	t.Helper()
	w.cluster.mu.Lock()
	_, inCluster := w.cluster.networks[name]
	w.cluster.mu.Unlock()
	if standing := w.docker.standing(name); !inCluster || len(standing) != 1 {
		t.Errorf("in the cluster: %v, in Docker: %q", inCluster, standing)
	}
}

// TestWishWithoutEvents: a network that a user makes through Docker is the cluster's
// within seconds, although nobody is told that Docker has made it.
func TestWishWithoutEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWishing(t)
		w.lives(t)
		<-w.read
		time.Sleep(listTime / 2) // it is not in the list that the driver is about to get
		w.create(t, "b")
		time.Sleep(3 * time.Second)
		w.wantThere(t, "b")
		time.Sleep(time.Minute)
		w.wantThere(t, "b")
		w.end()
	})
}

// TestWishOutlivesAnOutage: a network that a user has made through Docker stays while the
// store is away, and is the cluster's when the store is back. Its subnet is kept meanwhile.
func TestWishOutlivesAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWishing(t)
		w.lives(t)
		<-w.read
		time.Sleep(listTime / 2)
		w.create(t, "b")
		w.store.away.Store(true)
		time.Sleep(5 * time.Minute)
		w.driver.unreserve(netip.Prefix{}) // of another network
		if err := w.driver.keepReserved(t.Context()); err != nil {
			t.Fatal(err)
		}
		if kept := w.cluster.kept; len(kept) != 1 || kept[0].String() != modelSubnets["b"] {
			t.Errorf("kept: %v", kept)
		}
		w.store.away.Store(false)
		time.Sleep(3 * time.Second)
		w.wantThere(t, "b")
		w.end()
	})
}

// TestWishOfAnEarlierLife: the same where the agent has begun anew meanwhile.
func TestWishOfAnEarlierLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWishing(t)
		w.lives(t)
		<-w.read
		time.Sleep(listTime / 2)
		w.create(t, "b")
		w.store.away.Store(true)
		w.lives(t)
		time.Sleep(5 * time.Minute)
		w.store.away.Store(false)
		time.Sleep(3 * time.Second)
		w.wantThere(t, "b")
		w.end()
	})
}
