package state_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/socketplane/socketplane/agent/state"
)

const ttl = 10 * time.Second // the shortest there is

func openSession(ctx context.Context, t *testing.T, s state.Store) state.Session {
	t.Helper()
	session, err := s.OpenSession(ctx, "test", ttl)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = session.Close(ctx) // the store may be closed already
	})
	return session
}

func hold(t *testing.T, s state.Store, key, value string, version uint64, session state.Session) error {
	t.Helper()
	return s.Txn(testContext(t), []state.Op{
		{Kind: state.OpCAS, Key: key, Value: []byte(value), Version: version, Session: session.ID()},
	})
}

func mustHold(t *testing.T, s state.Store, key, value string, version uint64, session state.Session) state.Entry {
	t.Helper()
	if err := hold(t, s, key, value, version, session); err != nil {
		t.Fatal(err)
	}
	e := mustGet(t, s, key)
	if e.Session != session.ID() || string(e.Value) != value || e.Version == version {
		t.Fatalf("held key: got %+v, want value %q under session %s", e, value, session.ID())
	}
	return e
}

func testHeldKey(t *testing.T, s state.Store, prefix string) {
	ctx, key := testContext(t), prefix+"host"
	session := openSession(ctx, t, s)
	wantErr(t, "hold at a wrong version", hold(t, s, key, "x", 3, session), state.ErrConflict)
	e := mustHold(t, s, key, "one", 0, session)
	wantErr(t, "hold as a new key", hold(t, s, key, "x", 0, session), state.ErrConflict)
	e = mustHold(t, s, key, "two", e.Version, session)
	wantErr(t, "hold at an old version", hold(t, s, key, "x", e.Version-1, session), state.ErrConflict)

	version := mustSet(t, s, key, "three", e.Version)
	if e = mustGet(t, s, key); e.Session != session.ID() {
		t.Errorf("a write without a session let go of the key: %+v", e)
	}
	if err := s.Delete(ctx, key, version); err != nil {
		t.Errorf("delete of a held key: %v", err)
	}
	version = mustSet(t, s, key, "free", 0)
	if e = mustGet(t, s, key); e.Session != "" {
		t.Errorf("a new key is held: %+v", e)
	}
	mustHold(t, s, key, "taken", version, session)

	if _, err := s.OpenSession(ctx, "short", time.Second); !errors.Is(err, state.ErrInvalid) {
		t.Errorf("a ttl of a second: %v", err)
	}
}

func testHolderEnds(t *testing.T, s state.Store, prefix string) {
	ctx, key := testContext(t), prefix+"host"
	first := openSession(ctx, t, s)
	held := mustHold(t, s, key, "one", 0, first)
	snap, err := s.Wait(ctx, prefix, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Close(ctx); err != nil {
		t.Fatal(err)
	}
	// Watchers hear of it, and the key stays.
	snap, err = s.Wait(ctx, prefix, snap.Index)
	if err != nil {
		t.Fatal(err)
	}
	if len(snap.Entries) != 1 || snap.Entries[0].Session != "" || string(snap.Entries[0].Value) != "one" {
		t.Fatalf("after the session: got %+v", snap)
	}
	if snap.Entries[0].Version == held.Version {
		t.Error("the key was freed and kept its version")
	}
	wantErr(t, "hold under an ended session", hold(t, s, key, "x", snap.Entries[0].Version, first), state.ErrInvalid)
	second := openSession(ctx, t, s)
	mustHold(t, s, key, "two", snap.Entries[0].Version, second) // at once
	if err := first.Close(ctx); err != nil {
		t.Errorf("close again: %v", err)
	}
	if e := mustGet(t, s, key); e.Session != second.ID() {
		t.Errorf("the key is held by %q, not by the second session", e.Session)
	}
	select {
	case <-first.Lost():
		t.Error("a session that was closed counts as lost")
	default:
	}
}

func testHeldByAnother(t *testing.T, s state.Store, prefix string) {
	ctx, key := testContext(t), prefix+"host"
	first, second := openSession(ctx, t, s), openSession(ctx, t, s)
	if first.ID() == second.ID() {
		t.Fatal("two sessions have one id")
	}
	held := mustHold(t, s, key, "one", 0, first)
	wantErr(t, "hold what another holds", hold(t, s, key, "two", held.Version, second), state.ErrConflict)
	err := s.Txn(ctx, []state.Op{
		{Kind: state.OpCAS, Key: prefix + "beside", Value: []byte("x")},
		{Kind: state.OpCAS, Key: key, Value: []byte("two"), Version: held.Version, Session: second.ID()},
	})
	wantErr(t, "the same among others", err, state.ErrConflict)
	_, err = s.Get(ctx, prefix+"beside")
	wantErr(t, "what was beside it", err, state.ErrNotFound)
	if e := mustGet(t, s, key); e.Session != first.ID() || e.Version != held.Version {
		t.Errorf("the key was touched: %+v", e)
	}
}

func testSessionUnrenewed(t *testing.T, s state.Store, prefix string) {
	renewing, stop := context.WithCancel(t.Context())
	session := openSession(renewing, t, s)
	held := mustHold(t, s, prefix+"host", "one", 0, session)
	snap, err := s.Wait(testContext(t), prefix, 0)
	if err != nil {
		t.Fatal(err)
	}
	stop()
	if e := mustGet(t, s, prefix+"host"); e.Session != session.ID() || e.Version != held.Version {
		t.Errorf("the end of its context ended the session at once: %+v", e)
	}
	// The deadline is the contract's: twice the ttl, and room for a slow machine.
	ctx, cancel := context.WithTimeout(t.Context(), 2*ttl+30*time.Second)
	defer cancel()
	for len(snap.Entries) != 1 || snap.Entries[0].Session != "" {
		if snap, err = s.Wait(ctx, prefix, snap.Index); err != nil {
			t.Fatalf("the session that is not renewed does not end: %v", err)
		}
	}
}
