package cluster

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/agent/state/statetest"
)

// machine is a host under the identity that all of them here share.
func machine(boot, vtep string) func() (Host, error) {
	return func() (Host, error) {
		return Host{ID: id, Name: "h1", VTEP: netip.MustParseAddr(vtep), MTU: 1500, Datapath: "netdev", Boot: boot}, nil
	}
}

// TestTwin: of two machines with one identity the second is refused, and has
// written nothing; what was the same machine before is waited for at most.
func TestTwin(t *testing.T) {
	const ttl = 10 * time.Second
	for _, c := range []struct {
		name       string
		boot, vtep string        // of the second
		ends       time.Duration // when the session of the first ends; 0: never
		refused    bool
		within     time.Duration // until it is admitted, or refused
	}{
		{"the agent again", "boot-1", "192.0.2.1", 0, false, 0},
		{"the agent again, with a new address", "boot-1", "192.0.2.9", 0, false, 0},
		{"rebooted at once", "boot-2", "192.0.2.1", 0, false, 0},
		{"rebooted, with a new address", "boot-2", "192.0.2.9", 15 * time.Second, false, 17 * time.Second},
		{"a copy of its disk", "boot-2", "192.0.2.9", 0, true, 32 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := statetest.New()
				logger := slog.New(slog.DiscardHandler)
				first := NewMember(store, machine("boot-1", "192.0.2.1"), ttl, logger)
				living, die := context.WithCancel(t.Context())
				if err := first.register(living); err != nil {
					t.Fatal(err)
				}
				was, err := store.Get(t.Context(), HostsPrefix+id)
				if err != nil {
					t.Fatal(err)
				}
				if c.ends > 0 {
					time.AfterFunc(c.ends, die)
				}
				defer die()
				second := NewMember(store, machine(c.boot, c.vtep), ttl, logger)
				ctx, stop := context.WithCancel(t.Context())
				defer stop()
				start, ended := time.Now(), make(chan error, 1)
				go func() { ended <- second.Run(ctx) }()
				if c.refused {
					err := <-ended
					if !errors.Is(err, ErrTwin) || !strings.Contains(err.Error(), "remove the file host-id") || !strings.Contains(err.Error(), "192.0.2.1") {
						t.Fatalf("%v", err)
					}
					asking, cancel := context.WithTimeout(ctx, time.Second)
					defer cancel()
					if err := second.Admitted(asking); !errors.Is(err, ErrTwin) && !errors.Is(err, errDoubt) {
						t.Errorf("admitted: %v", err)
					}
					if now, err := store.Get(t.Context(), HostsPrefix+id); err != nil || now.Version != was.Version {
						t.Errorf("the record was touched: %+v, %v", now, err)
					}
				} else {
					if err := second.Admitted(ctx); err != nil {
						t.Fatal(err)
					}
					e, err := store.Get(t.Context(), HostsPrefix+id)
					if err != nil || !strings.Contains(string(e.Value), c.vtep) {
						t.Errorf("%s, %v", e.Value, err)
					}
				}
				if took := time.Since(start); took > c.within {
					t.Errorf("after %v, want %v", took, c.within)
				}
				stop()
				if !c.refused {
					if err := <-ended; err != nil {
						t.Error(err)
					}
				}
			})
		})
	}
}

// TestReturned: whoever could have been taken for dead hears of it, and an agent
// that only starts again before its session ends does not.
func TestReturned(t *testing.T) {
	store := statetest.New()
	m := NewMember(store, machine("boot-1", "192.0.2.1"), 10*time.Second, slog.New(slog.DiscardHandler))
	returned := func() bool {
		t.Helper()
		if err := m.register(t.Context()); err != nil && !errors.Is(err, errHeld) {
			t.Fatal(err)
		}
		select {
		case <-m.Returned():
			return true
		default:
			return false
		}
	}
	if !returned() || returned() {
		t.Error("the first time, and only then")
	}
	if e, _ := store.Get(t.Context(), HostsPrefix+id); !strings.Contains(string(e.Value), `"node":"memory"`) {
		t.Errorf("the record does not name the node: %s", e.Value)
	}
	if err := m.session.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.session = nil
	if !returned() {
		t.Error("after its session had ended")
	}
	if err := store.Txn(t.Context(), []state.Op{{Kind: state.OpDeleteTree, Key: HostsPrefix}}); err != nil {
		t.Fatal(err)
	}
	if !returned() {
		t.Error("after its record was gone")
	}
	m = NewMember(store, machine("boot-1", "192.0.2.1"), 10*time.Second, slog.New(slog.DiscardHandler))
	if returned() {
		t.Error("another agent on the same boot, the session being alive")
	}
}

func TestBootID(t *testing.T) {
	a, err := BootID()
	b, again := BootID()
	if err != nil || again != nil || a != b || len(a) != 16 {
		t.Errorf("%q, %q, %v, %v", a, b, err, again)
	}
}
