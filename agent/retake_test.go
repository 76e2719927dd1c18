package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/ipam"
)

// TestReturnAfterReap: a host that was taken for dead and lived finds its
// addresses its own again, but for one that another has: that endpoint is off
// the network, in no list, and says so, until it is removed.
func TestReturnAfterReap(t *testing.T) {
	for name, restart := range map[string]bool{"cut off": false, "its agent begins anew": true} {
		t.Run(name, func(t *testing.T) {
			h := newTestHost(t)
			h.mustAttach("c1", "foo", "/ns/1")
			h.mustAttach("c2", "foo", "/ns/2")
			h.converge()
			if err := Forget(t.Context(), h.store, selfID); err != nil {
				t.Fatal(err)
			}
			r, err := h.Catalog.Get(t.Context(), "foo")
			if err != nil {
				t.Fatal(err)
			}
			thief := ipam.New(h.store, peerID)
			if err := thief.AllocateAddr(t.Context(), pool(r), netip.MustParseAddr("10.6.0.2"), peerID+"/thief"); err != nil {
				t.Fatal(err)
			}
			if restart {
				h.start()
			} else {
				h.reclaim.Store(true)
			}
			h.watch()
			_ = h.Agent.converge(t.Context(), true) // it may meet its own publishing
			h.settle()
			h.converge()
			h.wantEvicted("c1", "c2")
			_, err = h.Attach(t.Context(), api.AttachRequest{ID: "c1", NetNS: "/ns/1"})
			wantCode(t, err, api.CodeConflict, "10.6.0.2", "given to another", "create it anew")
			h.wantEvicted("c1", "c2")
			h.converge()
			if err := h.Release(t.Context(), "c1"); err != nil {
				t.Fatal(err)
			}
			h.settle()
			h.converge()
			if s, _ := h.Status(t.Context()); len(s.Problems) > 0 {
				t.Errorf("problems: %q", s.Problems)
			}
			h.wantAddresses("10.6.0.2 "+peerID+"/thief", "10.6.0.3 "+selfID+"/c2")
		})
	}
}

// TestEvictedReturns: once the address is free, what lost it can have it again.
func TestEvictedReturns(t *testing.T) {
	h := newTestHost(t)
	h.mustAttach("c1", "foo", "/ns/1")
	r, _ := h.Catalog.Get(t.Context(), "foo")
	thief := ipam.New(h.store, peerID)
	if err := errors.Join(Forget(t.Context(), h.store, selfID),
		thief.AllocateAddr(t.Context(), pool(r), netip.MustParseAddr("10.6.0.2"), peerID+"/thief")); err != nil {
		t.Fatal(err)
	}
	h.reclaim.Store(true)
	h.converge()
	h.wantEvicted("c1")
	if err := thief.Release(t.Context(), pool(r), peerID+"/thief"); err != nil {
		t.Fatal(err)
	}
	h.reclaim.Store(true)
	h.converge()
	if e := h.mustAttach("c1", "", "/ns/1"); e.IP.String() != "10.6.0.2" {
		t.Errorf("%+v", e)
	}
	h.converge()
	h.wantAgreement()
}

// wantEvicted says that an endpoint is off the network, and others are on it.
func (h *testHost) wantEvicted(id string, others ...string) {
	h.t.Helper()
	l, ok := h.table.get(id)
	if !ok || l.Attached || l.Dirty || !l.Evicted {
		h.t.Fatalf("%s is %+v, %t", id, l, ok)
	}
	if s, _ := h.Status(h.t.Context()); len(s.Problems) != 1 || !strings.Contains(s.Problems[0], `of "`+id+`" was given to another`) {
		h.t.Errorf("problems: %q", s.Problems)
	}
	for _, line := range append(h.sw.State(), h.links.State()...) {
		if strings.Contains(line, l.IP.String()+" ") {
			h.t.Errorf("still there: %s", line)
		}
	}
	e, _ := h.store.Get(h.t.Context(), network.EndpointsKey("foo", selfID))
	if strings.Contains(string(e.Value), `"`+id+`"`) {
		h.t.Errorf("it is published: %s", e.Value)
	}
	for _, other := range others {
		if l, _ := h.table.get(other); !l.Attached || !strings.Contains(string(e.Value), `"`+other+`"`) {
			h.t.Errorf("%s is %+v, published %s", other, l, e.Value)
		}
	}
}

func (h *testHost) wantAddresses(want ...string) {
	h.t.Helper()
	list, err := h.Addresses.List(h.t.Context(), netip.MustParsePrefix("10.6.0.0/16"))
	var got []string
	for _, al := range list {
		got = append(got, fmt.Sprintf("%s %s", al.Addr, al.Owner))
	}
	if err != nil || !slices.Equal(got, want) {
		h.t.Errorf("addresses %q, want %q, %v", got, want, err)
	}
}

// outsider is the membership of a host that has not been admitted.
type outsider struct{ err error }

func (o *outsider) Admitted(context.Context) error { return o.err }
func (o *outsider) Returned() <-chan struct{}      { return nil }
func (o *outsider) Saw([]byte)                     {}
func (o *outsider) Overwritten() (int, time.Time)  { return 0, time.Time{} }

// TestNotAdmitted: before a host's record is known to be its own it takes
// nothing from what lies in the store under its id.
func TestNotAdmitted(t *testing.T) {
	h := twoAttached(t)
	before := h.whole()
	h.start()
	o := &outsider{err: errors.New("another machine has this host's identity")}
	h.Membership = o
	h.watch()
	for range 2 {
		if err := h.Agent.converge(t.Context(), true); !errors.Is(err, o.err) {
			t.Fatalf("%v", err)
		}
	}
	h.wantWhole("not admitted", before)
	o.err = nil
	h.converge()
	h.wantWhole("admitted", before)
}
