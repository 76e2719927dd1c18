package agent

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/agent/state"
)

// gets counts the reads of single keys since the calls were reset.
func (h *testHost) gets() int {
	n := 0
	for _, name := range h.calls.Names() {
		if name == "Store.Get" {
			n++
		}
	}
	return n
}

// TestUnusedNetworksCostNothing: a network that was used, and is not any more, is not
// asked about.
func TestUnusedNetworksCostNothing(t *testing.T) {
	h := newTestHost(t)
	names, _ := h.many(30)
	h.converge()
	h.mustAttach("stays", "foo", "/ns/stays")
	for i, name := range names {
		id := fmt.Sprintf("c%d", i)
		h.mustAttach(id, name, "/ns/"+id)
		if err := h.Release(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	h.settle()
	h.converge()
	h.calls.Reset()
	h.converge()
	if n := h.gets(); n > 5 {
		t.Errorf("a pass reads %d single keys, with one network in use", n)
	}
	// What is used again works, and a list of ours that comes there is taken out still.
	h.mustAttach("again", names[3], "/ns/again")
	if e, err := h.store.Get(t.Context(), network.EndpointsKey(names[3], selfID)); err != nil || len(e.Value) == 0 {
		t.Errorf("used again: %v", err)
	}
	stray := network.EndpointsKey(names[5], selfID)
	h.put(stray, `{"version":1,"endpoints":[]}`)
	h.show(partEndpoints)
	eventually(t, "the stray is taken out", func() bool {
		_, err := h.store.Get(t.Context(), stray)
		return errors.Is(err, state.ErrNotFound)
	})
}

// show has the agent take what the store has of a part.
func (h *testHost) show(part string) {
	h.t.Helper()
	snap, err := h.store.Wait(h.t.Context(), part, 0)
	if err != nil {
		h.t.Fatal(err)
	}
	h.take(h.t.Context(), part, snap)
}

// TestStraysCostNothing: lists of ours that somebody writes everywhere are taken out
// and counted, and cost nothing from then on.
func TestStraysCostNothing(t *testing.T) {
	h := newTestHost(t)
	key := func(i int) string { return network.EndpointsKey(fmt.Sprintf("n%04d", i), selfID) }
	const strays = 20
	for round := range 2 {
		for i := range strays {
			h.put(key(i), `{"version":1,"endpoints":[{"id":"x","ip":"10.7.0.2","mac":"02:42:0a:07:00:02","ifname":"eth0","source":"docker","attached":true}]}`)
		}
		h.show(partEndpoints)
		h.settle()
		for i := range strays {
			if _, err := h.store.Get(t.Context(), key(i)); !errors.Is(err, state.ErrNotFound) {
				t.Errorf("round %d: %s is there: %v", round, key(i), err)
			}
		}
		h.converge()
		h.calls.Reset()
		h.converge()
		if n := h.gets(); n > 5 {
			t.Errorf("round %d: a pass reads %d single keys, with no network in use", round, n)
		}
		st, err := h.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for i := range strays {
			at := slices.IndexFunc(st.Overwritten, func(o api.Overwritten) bool { return o.Key == key(i) })
			if at < 0 || st.Overwritten[at].Count != round+1 {
				t.Errorf("round %d: %s is not counted: %+v", round, key(i), st.Overwritten)
			}
		}
	}
}

// TestCountsAreBounded: whoever writes our lists chooses the names, and does not fill
// the agent's memory with them.
func TestCountsAreBounded(t *testing.T) {
	h := newTestHost(t)
	for i := range 2 * maxForeign {
		h.put(network.EndpointsKey(fmt.Sprintf("n%04d", i), selfID), `{"version":1,"endpoints":[]}`)
	}
	for range 2 * maxForeign / maxStrays {
		h.show(partEndpoints)
		h.settle()
	}
	eventually(t, "the last writer is idle, and forgotten", func() bool {
		h.converge()
		return len(h.ownLists()) == 0
	})
	if left, err := h.store.List(t.Context(), network.EndpointsPrefix); err != nil || len(left) != 0 {
		t.Errorf("left: %d, %v", len(left), err)
	}
	if len(h.foreign) != maxForeign {
		t.Errorf("%d counts are kept", len(h.foreign))
	}
}
