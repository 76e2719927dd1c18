package agent

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/agent/state"
)

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
