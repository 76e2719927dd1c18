package cluster

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/agent/state/statetest"
)

const laterMember = `"later":{"a":[1.50]}`

// later gives a value as a later release may write it.
func later(value string) string { return strings.Replace(value, `{`, `{`+laterMember+`,`, 1) }

// put writes a key as somebody else does.
func put(t *testing.T, s state.Store, key, value string) {
	t.Helper()
	e, err := s.Get(t.Context(), key)
	if err != nil && !errors.Is(err, state.ErrNotFound) {
		t.Fatal(err)
	}
	if _, err := s.CompareAndSet(t.Context(), key, []byte(value), e.Version); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, s state.Store, key string) string {
	t.Helper()
	e, err := s.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(e.Value)
}

// TestRecordOfALaterRelease: a host whose record has members that this release does not
// know is a host as any other. Its own record is rewritten after a downgrade with this
// release's facts, and loses none of those members.
func TestRecordOfALaterRelease(t *testing.T) {
	h, _ := self(1500)()
	value, err := h.encode()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Decode(state.Entry{Key: HostsPrefix + id, Value: []byte(later(string(value))), Session: "s"}); err != nil || got.VTEP != h.VTEP || !got.Alive {
		t.Errorf("%+v, %v", got, err)
	}
	s := statetest.New()
	put(t, s, HostsPrefix+id, later(string(value)))
	m := NewMember(s, self(1400), 10*time.Second, slog.New(slog.DiscardHandler))
	for range 2 {
		if err := m.register(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := get(t, s, HostsPrefix+id); !strings.Contains(got, laterMember) || !strings.Contains(got, `"underlay_mtu":1400`) {
			t.Errorf("the record became %s", got)
		}
	}
	if n, _ := m.Overwritten(); n != 0 {
		t.Errorf("counted %d times as another's", n)
	}
	// What somebody else writes in this life is no later release of this host.
	put(t, s, HostsPrefix+id, strings.Replace(string(value), `{`, `{"forged":1,`, 1))
	if err := m.register(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := get(t, s, HostsPrefix+id); strings.Contains(got, "forged") || !strings.Contains(got, laterMember) {
		t.Errorf("the record became %s", got)
	}
}

// TestIncompatibleRecord: another host's record of a layout that this release does not
// know is named with the remedy. This host's own, found at the start, stays: the host
// waits for its newer release. In the midst of a life it is a forgery.
func TestIncompatibleRecord(t *testing.T) {
	const value = `{"version":2,"id":"` + id + `","vteps":["192.0.2.1"],"name":["h1"]}`
	if _, err := Decode(state.Entry{Key: HostsPrefix + id, Value: []byte(value)}); err == nil || !strings.Contains(err.Error(), "layout 2") || !strings.Contains(err.Error(), "newer release") || strings.Contains(err.Error(), "delete") {
		t.Errorf("%v", err)
	}
	s := statetest.New()
	put(t, s, HostsPrefix+id, value)
	m := NewMember(s, self(1400), 10*time.Second, slog.New(slog.DiscardHandler))
	if err := m.register(t.Context()); err == nil || !strings.Contains(err.Error(), "newer release") {
		t.Errorf("register = %v", err)
	}
	if got := get(t, s, HostsPrefix+id); got != value {
		t.Errorf("the record became %s", got)
	}
	e, _ := s.Get(t.Context(), HostsPrefix+id)
	if err := s.Delete(t.Context(), e.Key, e.Version); err != nil { // what status says to do
		t.Fatal(err)
	}
	if err := m.register(t.Context()); err != nil {
		t.Fatal(err)
	}
	put(t, s, HostsPrefix+id, value)
	if err := m.register(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := get(t, s, HostsPrefix+id); !strings.Contains(got, `"underlay_mtu":1400`) {
		t.Errorf("the record became %s", got)
	}
}

// TestRecordAfterTheSession: the end of a session says nothing of what a later release
// has written. This life has written the record, so a newer layout and unknown members in
// it are somebody else's. They do not lock the host out, and it does not carry them.
func TestRecordAfterTheSession(t *testing.T) {
	s := statetest.New()
	m := NewMember(s, self(1400), 10*time.Second, slog.New(slog.DiscardHandler))
	if err := m.register(t.Context()); err != nil {
		t.Fatal(err)
	}
	good := get(t, s, HostsPrefix+id)
	for _, value := range []string{
		`{"version":2,"id":"` + id + `","vteps":["192.0.2.1"],"name":["h1"]}`,
		later(good),
	} {
		if err := m.session.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		put(t, s, HostsPrefix+id, value)
		lost := make(chan struct{})
		close(lost)
		m.session = &lostSession{Session: m.session, lost: lost}
		m.pause(t.Context(), time.Hour)
		if m.session != nil {
			t.Fatal("the end of the session was not noticed")
		}
		for range 2 {
			if err := m.register(t.Context()); err != nil {
				t.Errorf("register over %s: %v", value, err)
			}
		}
		if got := get(t, s, HostsPrefix+id); got != good {
			t.Errorf("the record became %s, want %s", got, good)
		}
	}
}

// TestClusterOfALaterRelease: so it is with which cluster a store is of, and with who
// changes its servers.
func TestClusterOfALaterRelease(t *testing.T) {
	s := statetest.New()
	put(t, s, ClusterKey, later(`{"version":1,"id":"`+id+`"}`))
	if err := errors.Join(checkCluster(t.Context(), s, id), markCluster(t.Context(), s, id)); err != nil {
		t.Error(err)
	}
	if got := get(t, s, ClusterKey); !strings.Contains(got, laterMember) {
		t.Errorf("%s", got)
	}
	put(t, s, ClusterKey, `{"version":2,"ids":[]}`)
	if err := checkCluster(t.Context(), s, id); err == nil || !strings.Contains(err.Error(), "newer release") {
		t.Errorf("%v", err)
	}
	session, err := s.OpenSession(t.Context(), "test", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, seatsKey, later(`{"version":1}`))
	if err := hold(t.Context(), s, session.ID()); err != nil {
		t.Fatal(err)
	}
	if got := get(t, s, seatsKey); got != `{"version":1,`+laterMember+`}` {
		t.Errorf("%s", got)
	}
	const newer = `{"version":2}`
	put(t, s, seatsKey, newer)
	if err := hold(t.Context(), s, session.ID()); err == nil {
		t.Error("the turn of a newer release was taken")
	}
	if got := get(t, s, seatsKey); got != newer {
		t.Errorf("%s", got)
	}
}

// TestPlaceOfALaterRelease: a downgrade changes this host's place and keeps what the
// later release knew of it.
func TestPlaceOfALaterRelease(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, placeFile)
	if err := os.WriteFile(path, []byte(later(`{"version":1,"is":"joined","cluster":"`+id+`","peers":["192.0.2.2"]}`)), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := LoadPlace(dir)
	if err != nil || p.Is != api.PlaceJoined {
		t.Fatalf("%+v, %v", p, err)
	}
	p.Settled = true
	if err := p.Save(dir); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil || !strings.Contains(strings.Join(strings.Fields(string(data)), ""), laterMember) || !strings.Contains(string(data), `"settled": true`) {
		t.Errorf("%s, %v", data, err)
	}
	if again, err := LoadPlace(dir); err != nil || !again.Settled {
		t.Errorf("%+v, %v", again, err)
	}
	if err := os.WriteFile(path, []byte(`{"version":2,"is":{}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadPlace(dir); err == nil || !strings.Contains(err.Error(), "newer release") || strings.Contains(err.Error(), "remove it") {
		t.Errorf("%v", err)
	}
}
