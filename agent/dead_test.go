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
	"github.com/socketplane/socketplane/agent/cluster"
	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/ipam"
)

// coroner is a Detector that says what the test wants.
type coroner struct {
	gone map[string]time.Time
	err  error
}

func (c *coroner) Look(context.Context, []cluster.Host) (map[string]time.Time, error) {
	return c.gone, c.err
}

const (
	peerList = `{"version":1,"endpoints":[{"id":"r1","ip":"10.6.0.64","mac":"02:42:0a:06:00:40","ifname":"eth0","source":"docker","attached":true}]}`
	peerHost = cluster.HostsPrefix + peerID
)

// withDeadPeer is a host whose peer has an endpoint and an address on foo, and
// lies in the hands of the coroner.
func withDeadPeer(t *testing.T) (*testHost, *coroner) {
	h, c := twoAttached(t), &coroner{}
	h.Detector = c
	h.put(network.EndpointsKey("foo", peerID), peerList)
	if err := ipam.New(h.store, peerID).AllocateAddr(t.Context(), ipam.Pool{Subnet: netip.MustParsePrefix("10.6.0.0/16")},
		netip.MustParseAddr("10.6.0.64"), peerID+"/r1"); err != nil {
		t.Fatal(err)
	}
	h.converge()
	return h, c
}

func (h *testHost) look() {
	h.t.Helper()
	if err := h.lookForDead(h.t.Context()); err != nil {
		h.t.Fatal(err)
	}
	h.converge()
}

func (h *testHost) peerState() string {
	s, err := h.Status(h.t.Context())
	if err != nil || len(s.Peers) == 0 {
		return ""
	}
	return s.Peers[0].State
}

// ofPeer is what the store has of the peer, a line a key.
func (h *testHost) ofPeer() []string {
	return slices.DeleteFunc(h.whole(), func(line string) bool {
		return !strings.HasPrefix(line, state.Prefix) || !strings.Contains(line, peerID)
	})
}

// TestDrain: nothing leads to a peer that is gone, what it has in the store
// stays, and it comes back as it was.
func TestDrain(t *testing.T) {
	h, c := withDeadPeer(t)
	h.ReclaimAfter = time.Hour
	before, store := h.whole(), h.ofPeer()
	if got := h.peerState(); got != "suspect" || len(store) != 3 {
		t.Fatalf("%s, %q", got, store)
	}
	drained := func() {
		t.Helper()
		if s := strings.Join(h.sw.State(), "\n"); strings.Contains(s, "vxlan") || strings.Contains(s, "remote") || h.peerState() != "gone" {
			t.Errorf("peer is %s:\n%s", h.peerState(), s)
		}
		if got := h.ofPeer(); !slices.Equal(got, store) {
			t.Errorf("in the store: %q", got)
		}
	}
	c.gone = map[string]time.Time{peerID: time.Now()}
	h.look()
	drained()

	c.err = errors.New("told so") // what was known stands
	if err := h.lookForDead(t.Context()); err == nil {
		t.Error("no error")
	}
	h.converge()
	drained()

	c.gone, c.err = nil, nil
	h.look()
	h.wantWhole("back", before)

	// It holds its record again, and nobody has looked since.
	c.gone = map[string]time.Time{peerID: time.Now()}
	h.look()
	drained()
	h.hold(peerHost)
	h.converge()
	if got := h.peerState(); got != "alive" {
		t.Errorf("it holds its record and is %s", got)
	}
	h.wantWhole("alive", before)
	h.look() // a verdict that came too late
	if got := h.peerState(); got != "alive" {
		t.Errorf("it is %s", got)
	}
}

// hold has somebody hold a key, with the value that it has.
func (h *testHost) hold(key string) state.Session {
	h.t.Helper()
	session, err := h.store.OpenSession(h.t.Context(), "test", 10*time.Second)
	if err != nil {
		h.t.Fatal(err)
	}
	e, err := h.store.Get(h.t.Context(), key)
	if err != nil && !errors.Is(err, state.ErrNotFound) {
		h.t.Fatal(err)
	}
	value := e.Value
	if e.Version == 0 {
		value = []byte("{}")
	}
	if err := h.store.Txn(h.t.Context(), []state.Op{{Kind: state.OpCAS, Key: key, Value: value, Version: e.Version, Session: session.ID()}}); err != nil {
		h.t.Fatal(err)
	}
	return session
}

// TestLeftHost: a host that took its endpoints out before its record has left,
// and its tunnel goes soon; one whose record alone is gone keeps it a while.
func TestLeftHost(t *testing.T) {
	for name, left := range map[string]bool{"left": true, "lost its record": false} {
		t.Run(name, func(t *testing.T) {
			h, c := withDeadPeer(t)
			if left {
				if err := Forget(t.Context(), h.store, peerID); err != nil {
					t.Fatal(err)
				}
			} else {
				h.remove(peerHost)
			}
			h.converge()
			if h.peerState() != "suspect" || !h.view.leaving() {
				t.Errorf("at once it is %q", h.peerState())
			}
			c.gone = nil
			start := time.Now()
			h.view.now = func() time.Time { return start.Add(leftGrace + time.Second) }
			h.look()
			if gone := !strings.Contains(strings.Join(h.sw.State(), "\n"), "vxlan"); gone != left {
				t.Errorf("its tunnel is gone: %t", gone)
			}
		})
	}
}

// TestReap: what a dead host had goes when its time is over, not before, and
// not while another reaper is at work; the address can then be had, and the host
// is no peer any more.
func TestReap(t *testing.T) {
	h, c := withDeadPeer(t)
	h.ReclaimAfter = time.Hour
	// A block of the dead host in which somebody else has an address, too.
	mine, err := h.Attach(t.Context(), api.AttachRequest{ID: "mine", Network: "foo", IP: "10.6.0.70", NetNS: "/ns/7", Source: api.SourceConnect})
	if err != nil {
		t.Fatal(err)
	}
	store := h.ofPeer()
	c.gone = map[string]time.Time{peerID: time.Now().Add(-time.Hour + time.Minute)}
	h.look()
	if got := h.ofPeer(); !slices.Equal(got, store) {
		t.Fatalf("too early: %q", got)
	}
	c.gone[peerID] = time.Now().Add(-time.Hour)
	other := h.hold(reaperKey)
	h.look()
	if got := h.ofPeer(); !slices.Equal(got, store) {
		t.Fatalf("another reaper is at work: %q", got)
	}
	if err := other.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.look()
	if got := h.ofPeer(); len(got) != 0 {
		t.Errorf("left: %q", got)
	}
	if slices.ContainsFunc(h.whole(), func(l string) bool { return strings.HasPrefix(l, reaperKey) }) {
		t.Error("the reaper's key is left")
	}
	if got := h.peerState(); got != "" {
		t.Errorf("it is a peer still: %s", got)
	}
	list, err := h.Addresses.List(t.Context(), netip.MustParsePrefix("10.6.0.0/16"))
	if err != nil || len(list) != 2 || list[1].Addr != mine.IP {
		t.Errorf("addresses: %v, %v", list, err)
	}
	if e, err := h.Attach(t.Context(), api.AttachRequest{ID: "heir", Network: "foo", IP: "10.6.0.64", NetNS: "/ns/8"}); err != nil {
		t.Errorf("%+v, %v", e, err)
	}
	h.converge()
	h.wantAgreement()
}

// TestReaperIsFenced: whatever the moment at which the host comes back, or the
// reaper loses its lock, nothing is taken from then on.
func TestReaperIsFenced(t *testing.T) {
	for what, change := range map[string]func(h *testHost){
		"the host comes back": func(h *testHost) { h.hold(peerHost) },
		"the lock is lost":    func(h *testHost) { h.put(reaperKey, "{}") },
	} {
		t.Run(what, func(t *testing.T) {
			for n := 0; ; n++ {
				h, _ := withDeadPeer(t)
				h.put(reaperKey, `{"version":1}`)
				lock, _ := h.store.Get(t.Context(), reaperKey)
				record, _ := h.store.Get(t.Context(), peerHost)
				s := &meddling{ForgetStore: h.store, at: n, meddle: func() { change(h) }}
				err := Forget(t.Context(), s, peerID,
					state.Op{Kind: state.OpCheck, Key: reaperKey, Version: lock.Version},
					state.Op{Kind: state.OpCheck, Key: peerHost, Version: record.Version})
				if s.at >= 0 { // it was done before
					if err != nil || n < 3 {
						t.Errorf("after %d writes: %v", n, err)
					}
					return
				}
				if !errors.Is(err, errFenced) {
					t.Errorf("write %d: %v", n, err)
				}
				if got := h.ofPeer(); len(got) != 3-n {
					t.Errorf("write %d: left %q", n, got)
				}
			}
		})
	}
}

// meddling does something right before a write.
type meddling struct {
	ForgetStore
	at     int // how many writes are let pass before; negative: it was done
	meddle func()
}

func (m *meddling) Txn(ctx context.Context, ops []state.Op) error {
	if m.at == 0 {
		m.meddle()
	}
	m.at--
	return m.ForgetStore.Txn(ctx, ops)
}

// TestForget: it can be called again after any failure; what cannot be decoded
// is left and told; others' writes in between cost a try.
func TestForget(t *testing.T) {
	for n := 1; ; n++ {
		h, _ := withDeadPeer(t)
		h.calls.Reset()
		h.calls.FailAt(n, n%2 == 0)
		first := Forget(t.Context(), h.store, peerID)
		h.calls.Reset()
		if err := Forget(t.Context(), h.store, peerID); err != nil {
			t.Fatalf("call %d failed, and again: %v", n, err)
		}
		if got := h.ofPeer(); len(got) != 0 {
			t.Errorf("call %d failed: left %q", n, got)
		}
		if first == nil {
			break
		}
		if !errors.Is(first, state.ErrUnavailable) {
			t.Fatal(first)
		}
	}
	h, _ := withDeadPeer(t)
	bad := network.EndpointsKey("bar", peerID)
	h.put(bad, `{"version":9}`)
	h.put("socketplane/v1/ipam/10.6.0.0-16/9", "x")
	err := Forget(t.Context(), h.store, peerID)
	if err == nil || !strings.Contains(err.Error(), bad) || !strings.Contains(err.Error(), "10.6.0.0-16/9") {
		t.Errorf("%v", err)
	}
	if got := h.ofPeer(); len(got) != 1 {
		t.Errorf("left: %q", got)
	}
}

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
