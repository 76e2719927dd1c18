package agent

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

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

func (c *coroner) Look(context.Context, []cluster.Host, func(id string) bool) (map[string]time.Time, error) {
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
	h.settle() // what is reaped
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
