package cluster

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/agent/state/consultest"
)

const id = "11111111-1111-4111-8111-111111111111"

func self(mtu int) func() (Host, error) {
	return func() (Host, error) {
		return Host{ID: id, Name: "h1", VTEP: netip.MustParseAddr("192.0.2.1"), MTU: mtu, Datapath: "netdev"}, nil
	}
}

func TestLoadID(t *testing.T) {
	dir := t.TempDir()
	first, err := LoadID(dir)
	if err != nil || len(first) != 36 {
		t.Fatalf("%q, %v", first, err)
	}
	if again, err := LoadID(dir); err != nil || again != first {
		t.Errorf("again %q, %v", again, err)
	}
	if files, _ := os.ReadDir(dir); len(files) != 1 {
		t.Errorf("left: %v", files)
	}
	for _, bad := range []string{"", "x", first + "0", "00000000-0000-0000-0000-000000000000", strings.Repeat("a", 1<<16)} {
		if err := os.WriteFile(filepath.Join(dir, "host-id"), []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := LoadID(dir); err == nil || !strings.Contains(err.Error(), "remove the file") {
			t.Errorf("%.40q gave %q, %v", bad, got, err)
		}
	}
	if _, err := LoadID(filepath.Join(dir, "none")); err == nil {
		t.Error("no directory, no error")
	}
}

func TestDecode(t *testing.T) {
	h, _ := self(1500)()
	value, err := h.encode()
	if err != nil {
		t.Fatal(err)
	}
	good := string(value)
	if got, err := Decode(state.Entry{Key: HostsPrefix + id, Value: value, Session: "s"}); err != nil || got.VTEP != h.VTEP || !got.Alive {
		t.Fatalf("%+v, %v", got, err)
	}
	for name, bad := range map[string]string{
		"empty": "", "no JSON": "x", "null": "null", "cut": good[:20], "trailing": good + "{}",
		"layout": strings.Replace(good, `"version":1`, `"version":2`, 1), "another's": strings.Replace(good, id, "x", 1), "no VTEP": strings.Replace(good, "192.0.2.1", "", 1),
		"loopback": strings.Replace(good, "192.0.2.1", "127.0.0.1", 1), "multicast": strings.Replace(good, "192.0.2.1", "224.0.0.1", 1),
		"any": strings.Replace(good, "192.0.2.1", "0.0.0.0", 1), "zone": strings.Replace(good, "192.0.2.1", "fe80::1%eth0", 1),
		"MTU 0": strings.Replace(good, "1500", "0", 1), "MTU small": strings.Replace(good, "1500", "68", 1), "MTU large": strings.Replace(good, "1500", "70000", 1),
		"name": strings.Replace(good, "h1", `h\u001b[2J`, 1), "long name": strings.Replace(good, "h1", strings.Repeat("h", 300), 1), "bad route": strings.Replace(good, "null", `["x"]`, 1),
	} {
		if got, err := Decode(state.Entry{Key: HostsPrefix + id, Value: []byte(bad)}); err == nil || !strings.Contains(err.Error(), HostsPrefix+id) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	other := strings.ReplaceAll(good, id, "other")
	hosts, errs := DecodeAll([]state.Entry{{Key: HostsPrefix + id, Value: value}, {Key: HostsPrefix + "bad"}, {Key: HostsPrefix + "other", Value: []byte(other)}})
	if len(hosts) != 2 || len(errs) != 1 {
		t.Errorf("%v, %v", hosts, errs)
	}
}

// run keeps a member in the cluster until the returned function is called.
func run(t *testing.T, store Store, self func() (Host, error)) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- NewMember(store, self, 10*time.Second, slog.New(slog.DiscardHandler)).Run(ctx) }()
	return sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// until waits for a record of this host that satisfies ok.
func until(t *testing.T, store state.Store, what string, ok func(state.Entry) bool) state.Entry {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.NewTimer(60 * time.Second)
	defer deadline.Stop()
	for {
		if e, err := store.Get(t.Context(), HostsPrefix+id); err == nil && ok(e) {
			return e
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("never came: %s", what)
		}
	}
}

func held(e state.Entry) bool { return e.Session != "" }

// watch fails the test if the record is ever absent.
func watch(t *testing.T, store state.Store) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		var index uint64
		for ctx.Err() == nil {
			snap, err := store.Wait(ctx, HostsPrefix, index)
			if err != nil {
				continue
			}
			index = snap.Index
			if len(snap.Entries) != 1 {
				t.Errorf("the record vanished: %v", snap.Entries)
				return
			}
		}
	}()
	return func() { cancel(); <-done }
}

func TestMember(t *testing.T) {
	t.Run("embedded", func(t *testing.T) {
		t.Parallel() // each waits for a session to run out
		s, err := state.OpenEmbedded(filepath.Join(t.TempDir(), "state.db"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		testMember(t, s)
	})
	t.Run("consul", func(t *testing.T) {
		t.Parallel()
		s, err := state.OpenConsul(state.ConsulConfig{Address: consultest.Start(t)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		testMember(t, s)
	})
}

func testMember(t *testing.T, s state.Store) {
	stop := run(t, s, self(1500))
	defer stop()
	first := until(t, s, "the record", held)
	stop()
	unwatch := watch(t, s)
	// The next life takes it over: its facts at once, the hold when the old
	// session has run out.
	stop = run(t, s, self(1400))
	defer stop()
	e := until(t, s, "the new facts", func(e state.Entry) bool { return strings.Contains(string(e.Value), "1400") })
	if !held(e) {
		t.Error("it was suspected in between")
	}
	until(t, s, "the new session", func(e state.Entry) bool { return held(e) && e.Session != first.Session })
	unwatch()
}

// losing is a store whose sessions the test can end.
type losing struct {
	state.Store
	mu   sync.Mutex
	last *lostSession
}

type lostSession struct {
	state.Session
	lost chan struct{}
}

func (s *lostSession) Lost() <-chan struct{} { return s.lost }

func (l *losing) OpenSession(ctx context.Context, name string, ttl time.Duration) (state.Session, error) {
	s, err := l.Store.OpenSession(ctx, name, ttl)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = &lostSession{Session: s, lost: make(chan struct{})}
	return l.last, nil
}

func TestSessionIsLost(t *testing.T) {
	s, err := state.OpenEmbedded(filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	l := &losing{Store: s}
	stop := run(t, l, self(1500))
	defer stop()
	first := until(t, s, "the record", held)
	unwatch := watch(t, s)
	if err := l.last.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	close(l.last.lost)
	until(t, s, "another session", func(e state.Entry) bool { return held(e) && e.Session != first.Session })
	unwatch()
}

// TestRecordIsLost: what somebody deletes, or the store loses, comes again.
func TestRecordIsLost(t *testing.T) {
	s, err := state.OpenEmbedded(filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	m := NewMember(s, self(1500), 10*time.Second, slog.New(slog.DiscardHandler))
	for range 2 {
		if err := m.register(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	e := until(t, s, "the record", held)
	if err := s.Delete(t.Context(), e.Key, e.Version); err != nil {
		t.Fatal(err)
	}
	if err := m.register(t.Context()); err != nil {
		t.Fatal(err)
	}
	until(t, s, "the record again", held)
	m.self = func() (Host, error) { return Host{}, errors.New("no address") }
	if err := m.register(t.Context()); err == nil {
		t.Error("no error")
	}
}

// TestRecordIsOverwritten: what somebody else writes to this host's record, or takes
// away, is put right as soon as it is seen, and counted. What this host changes
// itself, and what an earlier life wrote, is not.
func TestRecordIsOverwritten(t *testing.T) {
	s, err := state.OpenEmbedded(filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	before := run(t, s, self(1400))
	until(t, s, "the record", held)
	before()

	var mtu atomic.Int64
	mtu.Store(1500)
	m := NewMember(s, func() (Host, error) { return self(int(mtu.Load()))() }, 10*time.Second, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	good := until(t, s, "the record of this life", func(e state.Entry) bool { return strings.Contains(string(e.Value), "1500") })
	mtu.Store(1450)
	m.Saw([]byte("look"))
	changed := until(t, s, "our own change", func(e state.Entry) bool { return strings.Contains(string(e.Value), "1450") })
	if n, _ := m.Overwritten(); n != 0 {
		t.Errorf("counted %d times before anybody wrote it", n)
	}
	write := func(value []byte) {
		t.Helper()
		e, err := s.Get(t.Context(), HostsPrefix+id)
		if err != nil {
			t.Fatal(err)
		}
		if value == nil {
			err = s.Delete(t.Context(), e.Key, e.Version)
		} else {
			_, err = s.CompareAndSet(t.Context(), e.Key, value, e.Version)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	start := time.Now()
	for i, value := range [][]byte{[]byte(strings.Replace(string(good.Value), "192.0.2.1", "192.0.2.66", 1)), []byte("{"), nil} {
		write(value)
		m.Saw(value)
		until(t, s, "put right", func(e state.Entry) bool { return string(e.Value) == string(changed.Value) })
		if n, _ := m.Overwritten(); n != i+1 {
			t.Errorf("counted %d times, want %d", n, i+1)
		}
	}
	if took := time.Since(start); took > 3*refreshEvery {
		t.Errorf("it took %v: it was not looked at when it was seen", took)
	}
	m.Saw(changed.Value)
	if n, last := m.Overwritten(); n != 3 || last.IsZero() {
		t.Errorf("counted %d times, last %v", n, last)
	}
}
