package agent

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/socketplane/socketplane/agent/calm"
	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/agent/state"
)

// What this host publishes is its own: what somebody else writes there is put right
// and counted, also what cannot be decoded.
func TestOwnListIsOverwritten(t *testing.T) {
	h := hostile(t)
	h.mustAttach("c1", "foo", "/ns/1")
	h.converge()
	key := network.EndpointsKey("foo", selfID)
	good, err := h.store.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	for i, spoil := range []func(){
		func() { h.put(key, `{"version":1,"endpoints":[]}`) },
		func() { h.put(key, `{`) },
		func() { h.remove(key) },
	} {
		spoil()
		snap, err := h.store.Wait(t.Context(), partEndpoints, 0)
		if err != nil {
			t.Fatal(err)
		}
		h.take(t.Context(), partEndpoints, snap) // no pass of converge, and none that compares
		eventually(t, "the list is put right", func() bool {
			e, err := h.store.Get(t.Context(), key)
			return err == nil && string(e.Value) == string(good.Value)
		})
		h.settle()
		st, err := h.Status(t.Context())
		if err != nil || len(st.Overwritten) != 1 || st.Overwritten[0].Count != i+1 || st.Overwritten[0].Key != key {
			t.Errorf("%d: %+v, %v", i, st.Overwritten, err)
		}
		h.named(key, fmt.Sprintf("began: %d", i+1))
	}
	h.view.now = func() time.Time { return time.Now().Add(time.Minute) }
	h.converge()
	h.well()
	if st, err := h.Status(t.Context()); err != nil || len(st.Overwritten) != 1 {
		t.Errorf("the count is gone: %+v, %v", st.Overwritten, err)
	}
}

// A list of ours on a network where this host has nothing is taken out.
func TestListOfNobody(t *testing.T) {
	h := hostile(t)
	h.mustAttach("c1", "foo", "/ns/1")
	key := network.EndpointsKey("bar", selfID)
	h.put(key, `{"version":1,"endpoints":[{"id":"x","ip":"10.7.0.2","mac":"02:42:0a:07:00:02","ifname":"eth0","source":"docker","attached":true}]}`)
	snap, err := h.store.Wait(t.Context(), partEndpoints, 0)
	if err != nil {
		t.Fatal(err)
	}
	h.take(t.Context(), partEndpoints, snap)
	eventually(t, "it is taken out", func() bool {
		_, err := h.store.Get(t.Context(), key)
		return errors.Is(err, state.ErrNotFound)
	})
	h.settle()
	h.named(key, "began: 1")
	if st, err := h.Status(t.Context()); err != nil || len(st.Overwritten) != 1 {
		t.Errorf("%+v, %v", st.Overwritten, err)
	}
}

// Who changes a network's record and takes our list out does not keep it out.
func TestListOfChangedNetwork(t *testing.T) {
	h := hostile(t)
	h.mustAttach("c1", "foo", "/ns/1")
	h.converge()
	key := network.EndpointsKey("foo", selfID)
	good, err := h.store.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	h.writeNetwork("foo", "192.0.2.0/24", 10001, "")
	h.remove(key)
	h.converge()
	if e, err := h.store.Get(t.Context(), key); err != nil || string(e.Value) != string(good.Value) {
		t.Errorf("%s, %v", e.Value, err)
	}
}

// Who writes values in a loop fills no log, and no status.
func TestWritesInALoop(t *testing.T) {
	h := hostile(t)
	h.mustAttach("c1", "foo", "/ns/1")
	h.converge()
	var log lockedBuffer
	h.Logger = slog.New(calm.New(slog.NewTextHandler(&log, nil)))
	const rounds = 300
	for i := range rounds {
		h.writeNetwork("foo", "192.0.2.0/24", 10001, "") // in use: it stays, with a word
		h.put(network.EndpointsKey("foo", selfID), fmt.Sprintf(`{"version":1,"endpoints":[],"x%d":0}`, i))
		h.put(network.EndpointsKey("foo", peerID), fmt.Sprintf(`{"version":1,"endpoints":"x%d"}`, i)) // cannot be decoded, for another reason each time
		h.put(network.EndpointsKey(fmt.Sprintf("stray%d", i), selfID), peerList)
		for _, part := range []string{partNetworks, partEndpoints} {
			snap, err := h.store.Wait(t.Context(), part, 0)
			if err != nil {
				t.Fatal(err)
			}
			h.take(t.Context(), part, snap)
		}
	}
	h.settle()
	h.converge()
	h.settle()
	said := log.String()
	if lines := strings.Count(said, "\n"); lines > 250 || len(said) > 100_000 {
		t.Errorf("%d lines, %d bytes:\n%.3000s", lines, len(said), said)
	}
	for _, what := range []string{"foo", "somebody else wrote this host's list", "a value of the store is left alone"} {
		if !strings.Contains(said, what) {
			t.Errorf("the log does not say %q:\n%.3000s", what, said)
		}
	}
	st, err := h.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if n := len(st.Overwritten); n != maxOverwritten+1 || !strings.HasSuffix(st.Overwritten[n-1].Key, " more)") {
		t.Errorf("%d keys: %+v", n, st.Overwritten)
	}
	if n := len(st.Problems); n > 4*maxOverwritten {
		t.Errorf("%d problems: %q", n, st.Problems)
	}
	count := 0
	for _, o := range st.Overwritten {
		count += o.Count
	}
	if count < rounds { // the strays alone
		t.Errorf("%d were counted of %d", count, rounds)
	}
}

// lockedBuffer is a log that several goroutines write.
type lockedBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.String()
}
