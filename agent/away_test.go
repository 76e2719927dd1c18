package agent

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/link"
	"github.com/socketplane/socketplane/ipam"
)

func TestStoreAway(t *testing.T) {
	h := newTestHost(t)
	empty := h.whole()
	h.mustAttach("c1", "foo", "/ns/1")
	h.mustAttach("c2", "foo", "/ns/2")
	if err := h.Detach(t.Context(), "c1"); err != nil {
		t.Fatal(err)
	}
	h.settle()

	h.store.SetAway(true)
	t.Run("attach of a held address", func(t *testing.T) {
		if e := h.mustAttach("c1", "", "/ns/3"); !e.Attached || e.IP.String() != "10.6.0.2" {
			t.Errorf("%+v", e)
		}
	})
	t.Run("attach anew", func(t *testing.T) {
		before := h.sw.State()
		_, err := h.Attach(t.Context(), api.AttachRequest{ID: "c3", Network: "foo", NetNS: "/ns/4"})
		wantCode(t, err, api.CodeUnavailable, "try again")
		if _, err := h.Endpoint(t.Context(), "c3"); api.CodeOf(err) != api.CodeNotFound {
			t.Errorf("it is there: %v", err)
		}
		if after := h.sw.State(); len(after) != len(before) {
			t.Errorf("left on the switch: %q", after)
		}
	})
	t.Run("networks", func(t *testing.T) {
		_, err := h.CreateNetwork(t.Context(), api.CreateNetworkRequest{ID: "new"})
		wantCode(t, err, api.CodeUnavailable)
		_, err = h.Networks(t.Context())
		wantCode(t, err, api.CodeUnavailable)
	})
	t.Run("detach", func(t *testing.T) {
		if err := h.Detach(t.Context(), "c2"); err != nil {
			t.Fatal(err)
		}
		h.settle()
		if len(h.links.State()) != 1 {
			t.Errorf("left: %q", h.links.State())
		}
	})
	t.Run("the last of the network, and back", func(t *testing.T) {
		if err := h.Detach(t.Context(), "c1"); err != nil {
			t.Fatal(err)
		}
		h.settle()
		if len(h.nat.State()) != 0 {
			t.Fatal("the gateway is still there")
		}
		h.mustAttach("c1", "", "/ns/5")
	})
	t.Run("release", func(t *testing.T) {
		for _, id := range []string{"c1", "c2"} {
			wantCode(t, h.Release(t.Context(), id), api.CodeUnavailable)
		}
		if list, err := h.Endpoints(t.Context()); err != nil || len(list) > 0 || len(h.links.State()) > 0 {
			t.Errorf("left: %v, %v, %q", list, err, h.links.State())
		}
	})
	h.settle() // a network that its last container has left stays for a moment
	h.store.SetAway(false)
	h.converge()
	h.wantWhole("back", empty)
}

// TestStoreAwayAtStart: nothing of what runs is touched, and what needs the
// store says so.
func TestStoreAwayAtStart(t *testing.T) {
	h := twoAttached(t)
	before := h.whole()
	h.store.SetAway(true)
	h.start()
	running, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- h.Run(running) }()

	impatient, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := h.Attach(impatient, api.AttachRequest{ID: "c3", Network: "foo", NetNS: "/ns/4"})
	wantCode(t, err, api.CodeUnavailable, "has not answered")
	wantCode(t, h.Release(t.Context(), "c1"), api.CodeUnavailable)
	_, err = h.CreateNetwork(t.Context(), api.CreateNetworkRequest{ID: "new"})
	wantCode(t, err, api.CodeUnavailable)
	h.kick <- struct{}{}
	eventually(t, "the kick is taken", func() bool { return len(h.kick) == 0 })
	h.forwarding.Do(t.Context()) //nolint:errcheck // it has nothing to do yet
	if s, err := h.Status(t.Context()); err != nil || s.Ready || len(s.Problems) == 0 {
		t.Errorf("status %+v, %v", s, err)
	}
	h.wantWhole("touched", before)

	h.store.SetAway(false)
	eventually(t, "it is ready", func() bool { s, _ := h.Status(t.Context()); return s.Ready })
	eventually(t, "the default network", func() bool { _, err := h.Network(t.Context(), "default"); return err == nil })
	stop()
	if err := <-ended; err != nil {
		t.Errorf("Run: %v", err)
	}
	h.remove("socketplane/v1/networks/default")
	h.remove("socketplane/v1/vlans/3")
	h.wantWhole("after", before)
}

// TestEndWaitsForDetach: what a caller has left to the agent is done before
// the agent's end.
func TestEndWaitsForDetach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestHost(t)
		h.mustAttach("c1", "foo", "/ns/1")
		h.start()
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- h.Run(ctx) }()
		<-h.known
		release := h.calls.Block("Links.DeleteVeth")
		if err := h.Detach(t.Context(), "c1"); err != nil {
			t.Fatal(err)
		}
		stop()
		time.Sleep(errandGrace - time.Millisecond)
		synctest.Wait()
		select {
		case <-ended:
			t.Error("it ended before the detach")
		default:
		}
		release()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		if len(h.links.State()) != 0 {
			t.Errorf("left: %q", h.links.State())
		}
		// And what is asked of it after that is done at once.
		h.mustAttach("c1", "", "/ns/2")
		if err := h.Detach(t.Context(), "c1"); err != nil || len(h.links.State()) != 0 {
			t.Errorf("%v, left: %q", err, h.links.State())
		}
	})
}

// TestGatewayLingers: behind the last container the gateway stays a little,
// unless another network takes the name, or the agent ends.
func TestGatewayLingers(t *testing.T) {
	h := newTestHost(t)
	empty := h.whole()
	h.linger = time.Hour
	h.mustAttach("c1", "foo", "/ns/1")
	if err := h.Release(t.Context(), "c1"); err != nil {
		t.Fatal(err)
	}
	h.converge()
	if len(h.nat.State()) != 1 {
		t.Errorf("it did not stay: %q", h.nat.State())
	}
	if err := h.DeleteNetwork(t.Context(), "foo"); err != nil {
		t.Fatal(err)
	}
	if _, err := h.CreateNetwork(t.Context(), api.CreateNetworkRequest{ID: "foo", Subnet: "10.9.0.0/16"}); err != nil {
		t.Fatal(err)
	}
	h.mustAttach("c1", "foo", "/ns/1")
	if g := h.links.Gateway(link.GatewayName("foo")); g.Addr.String() != "10.9.0.1/16" {
		t.Errorf("the gateway is still %s", g.Addr)
	}
	h.wantAgreement()
	if err := h.Release(t.Context(), "c1"); err != nil {
		t.Fatal(err)
	}
	h.errands.finish(time.Minute)
	if err := h.DeleteNetwork(t.Context(), "foo"); err != nil {
		t.Fatal(err)
	}
	if _, err := h.CreateNetwork(t.Context(), api.CreateNetworkRequest{ID: "foo", Subnet: "10.6.0.0/16"}); err != nil {
		t.Fatal(err)
	}
	h.wantWhole("after the end", empty)
}

// TestLateWrite: a write that the store takes after it was given up, and after
// what it made was looked for, is found all the same.
func TestLateWrite(t *testing.T) {
	h := newTestHost(t)
	h.doubt = 20 * time.Millisecond
	empty := h.whole()
	h.store.SetAway(true)
	_, err := h.Reserve(t.Context(), api.ReserveRequest{ID: "late", Network: "foo", Source: api.SourceDocker})
	wantCode(t, err, api.CodeUnavailable)
	h.store.SetAway(false)
	h.converge() // finds nothing
	r, err := h.Catalog.Get(t.Context(), "foo")
	if err != nil {
		t.Fatal(err)
	}
	other := ipam.New(h.store, selfID)
	if _, err := other.Allocate(t.Context(), pool(r), h.owner("late")); err != nil {
		t.Fatal(err)
	}
	h.settle()
	h.converge()
	h.wantWhole("after the late write", empty)
}

// TestDetachBeforeLoaded: a container that ends while the agent has just started,
// and knows only what is on the bridge, costs no other container its address.
func TestDetachBeforeLoaded(t *testing.T) {
	h := newTestHost(t)
	h.mustAttach("runs", "foo", "/ns/1")
	stopped := h.mustAttach("stopped", "foo", "/ns/2")
	if err := h.Detach(t.Context(), "stopped"); err != nil {
		t.Fatal(err)
	}
	h.settle()
	h.start()
	if err := h.Detach(t.Context(), "runs"); err != nil {
		t.Fatal(err)
	}
	h.settle()
	h.converge()
	for _, id := range []string{"runs", "stopped"} {
		if e, err := h.Endpoint(t.Context(), id); err != nil || e.Attached {
			t.Errorf("%s: %+v, %v", id, e, err)
		}
	}
	if e := h.mustAttach("stopped", "", "/ns/3"); e.IP != stopped.IP {
		t.Errorf("it came back with %s, had %s", e.IP, stopped.IP)
	}
	// The cluster has heard of both.
	again := h.whole()
	h.start()
	h.converge()
	h.wantWhole("restarted", again)
}
