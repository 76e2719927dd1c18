package driver

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/socketplane/socketplane/agent/api"
)

// busyAgent has no time to release an endpoint for a while.
type busyAgent struct {
	*agent
	id    string
	until time.Time
	mu    *sync.Mutex
}

func (a busyAgent) Release(ctx context.Context, id string) error {
	if id == a.id && time.Now().Before(a.until) {
		return api.Errorf(api.CodeUnavailable, "endpoint %q is being detached", id)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.endpoints = slices.DeleteFunc(a.endpoints, func(e api.Endpoint) bool { return e.ID == id })
	return a.agent.Release(ctx, id)
}

// What Docker gives back while the agent cannot take it is released soon after;
// what has the address by then is not touched.
func TestGivenBackInVain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &agent{networks: []api.Network{aNetwork("foo", "10.6.0.0/24")}}
		endpoint := func(id string) api.Endpoint {
			return api.Endpoint{ID: id, Network: "foo", IP: netip.MustParseAddr("10.6.0.9"), PrefixLen: 24, Source: api.SourceDriver}
		}
		a.endpoints = []api.Endpoint{endpoint("old")}
		d := newTestDriver(a)
		var mu sync.Mutex
		d.Service = busyAgent{agent: a, id: "old", until: time.Now().Add(4 * time.Second), mu: &mu}
		d.known.setPools(map[netip.Prefix]string{netip.MustParsePrefix("10.6.0.0/24"): "foo"})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); d.payOwed(ctx) }()
		if status, _ := call(t, d.Handler(), "IpamDriver.ReleaseAddress", `{"PoolID":"10.6.0.0/24","Address":"10.6.0.9"}`); status == http.StatusOK {
			t.Error("a failure is not told")
		}
		synctest.Wait()
		mu.Lock()
		a.endpoints = append(a.endpoints, endpoint("new")) // Docker was given the address anew
		mu.Unlock()
		time.Sleep(time.Minute) // of the bubble's clock
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		if !slices.Contains(a.asked, "release old") || slices.Contains(a.asked, "release new") {
			t.Errorf("after a minute the agent was asked %q", a.asked)
		}
		if left := d.owed.list(); len(left) != 0 {
			t.Errorf("still owed: %v", left)
		}
		cancel()
		<-ended
	})
}

// slowAgent releases an endpoint in as long as a call may last.
type slowAgent struct{ *agent }

func (a slowAgent) Release(ctx context.Context, id string) error {
	time.Sleep(callTimeout)
	return a.agent.Release(ctx, id)
}

// Of a hundred endpoints that are owed at once, each slow to release, the last is
// released before it is given up.
func TestManyGivenBackInVain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &agent{}
		d := newTestDriver(a)
		d.Service = slowAgent{a}
		for i := range 100 {
			d.owed.add(fmt.Sprint("e", i))
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); d.payOwed(ctx) }()
		time.Sleep(owedFor / 2) // of the bubble's clock
		if left := len(d.owed.list()); left != 0 {
			t.Errorf("%d are owed still", left)
		}
		cancel()
		<-ended
	})
}
