package state_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/socketplane/socketplane/agent/state"
)

func mustWait(t *testing.T, s state.Store, prefix string, index uint64) state.Snapshot {
	t.Helper()
	snap, err := s.Wait(testContext(t), prefix, index)
	if err != nil {
		t.Fatal(err)
	}
	if snap.Index == 0 || snap.Entries == nil {
		t.Fatalf("wait: got %+v", snap)
	}
	return snap
}

// quiet fails if a Wait returns before ctx ends: it must block.
func quiet(t *testing.T, s state.Store, prefix string, index uint64, during func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	answer := make(chan error, 1)
	go func() {
		snap, err := s.Wait(ctx, prefix, index)
		if err == nil {
			err = fmt.Errorf("it returned %+v", snap)
		}
		answer <- err
	}()
	during()
	cancel()
	if err := <-answer; !errors.Is(err, context.Canceled) {
		t.Errorf("wait for %q from index %d: %v", prefix, index, err)
	}
}

func testWaitResumes(t *testing.T, s state.Store, prefix string) {
	v := mustSet(t, s, prefix+"b", "1", 0)
	mustSet(t, s, prefix+"a", "1", 0)
	snap := mustWait(t, s, prefix, 0)
	if diff := cmp.Diff([]string{prefix + "a", prefix + "b"}, keysOf(snap.Entries)); diff != "" {
		t.Errorf("first (-want +got):\n%s", diff)
	}
	// A change between two waits is not missed.
	mustSet(t, s, prefix+"b", "2", v)
	snap = mustWait(t, s, prefix, snap.Index)
	if got := string(snap.Entries[1].Value); got != "2" {
		t.Errorf("second: got %q", got)
	}
	quiet(t, s, prefix, snap.Index, func() { mustGet(t, s, prefix+"a") })
	// A change during a wait ends it.
	got := make(chan state.Snapshot, 1)
	go func() {
		snap, err := s.Wait(testContext(t), prefix, snap.Index)
		if err != nil {
			t.Error(err)
		}
		got <- snap
	}()
	mustSet(t, s, prefix+"c", "3", 0)
	snap = <-got
	if diff := cmp.Diff([]string{prefix + "a", prefix + "b", prefix + "c"}, keysOf(snap.Entries)); diff != "" {
		t.Errorf("third (-want +got):\n%s", diff)
	}
}

func testWaitDeletion(t *testing.T, s state.Store, prefix string) {
	a := mustSet(t, s, prefix+"a", "1", 0)
	mustSet(t, s, prefix+"b", "1", 0)
	snap := mustWait(t, s, prefix, 0)
	if err := s.Delete(testContext(t), prefix+"a", a); err != nil {
		t.Fatal(err)
	}
	snap = mustWait(t, s, prefix, snap.Index)
	if diff := cmp.Diff([]string{prefix + "b"}, keysOf(snap.Entries)); diff != "" {
		t.Errorf("after the first (-want +got):\n%s", diff)
	}
	if err := s.Txn(testContext(t), []state.Op{{Kind: state.OpDeleteTree, Key: prefix}}); err != nil {
		t.Fatal(err)
	}
	snap = mustWait(t, s, prefix, snap.Index)
	if len(snap.Entries) != 0 {
		t.Errorf("after the last: %+v", snap)
	}
	quiet(t, s, prefix, snap.Index, func() { mustSet(t, s, "elsewhere/"+prefix+"x", "1", 0) })
}

func testWaitCoalesces(t *testing.T, s state.Store, prefix string) {
	snap := mustWait(t, s, prefix, 0)
	const writes = 30
	done := make(chan struct{})
	go func() {
		defer close(done)
		var v uint64
		for i := range writes {
			var err error
			if v, err = s.CompareAndSet(testContext(t), prefix+"n", []byte{byte(i)}, v); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	answers := 0
	for len(snap.Entries) == 0 || snap.Entries[0].Value[0] != writes-1 {
		next := mustWait(t, s, prefix, snap.Index)
		if answers++; len(next.Entries) != 0 && next.Index < snap.Index {
			t.Errorf("the index went from %d to %d", snap.Index, next.Index)
		}
		snap = next
	}
	<-done
	if answers > writes+2 {
		t.Errorf("%d answers for %d writes", answers, writes)
	}
	quiet(t, s, prefix, snap.Index, func() {})
}

func testWaitCancelled(t *testing.T, s state.Store, prefix string) {
	snap := mustWait(t, s, prefix, 0)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := s.Wait(ctx, prefix, snap.Index)
	wantErr(t, "deadline", err, context.DeadlineExceeded)
}

func testWaitEmpty(t *testing.T, s state.Store, prefix string) {
	snap := mustWait(t, s, prefix, 0)
	if len(snap.Entries) != 0 {
		t.Fatalf("got %+v", snap)
	}
	// Nothing under the prefix: writes elsewhere end no wait.
	quiet(t, s, prefix, snap.Index, func() {
		var v uint64
		for range 10 {
			v = mustSet(t, s, state.Prefix+"elsewhere/of-empty", "x", v)
		}
	})
	mustSet(t, s, prefix+"a", "1", 0)
	if snap = mustWait(t, s, prefix, snap.Index); len(snap.Entries) != 1 {
		t.Errorf("after a write: %+v", snap)
	}
}

func testWaitPrefix(t *testing.T, s state.Store, prefix string) {
	mustSet(t, s, prefix+"net/a", "1", 0)
	snap := mustWait(t, s, prefix+"net/", 0)
	quiet(t, s, prefix+"net/", snap.Index, func() {
		v := mustSet(t, s, prefix+"network", "1", 0)
		mustSet(t, s, prefix+"net", "1", 0)
		if err := s.Delete(testContext(t), prefix+"network", v); err != nil {
			t.Error(err)
		}
	})
	if snap = mustWait(t, s, prefix+"net/", 0); len(snap.Entries) != 1 {
		t.Errorf("got %v", keysOf(snap.Entries))
	}
}

// An index that the store has not reached yet comes from another store, or
// from a context that failed in between. Waiting must end with a change at the latest.
func testWaitFuture(t *testing.T, s state.Store, prefix string) {
	snap := mustWait(t, s, prefix, 0)
	got := make(chan state.Snapshot, 1)
	go func() { got <- mustWaitAsync(t, s, prefix, snap.Index+1) }()
	v := uint64(0)
	for range 3 {
		v = mustSet(t, s, prefix+"a", "x", v)
	}
	if snap := <-got; len(snap.Entries) > 1 {
		t.Errorf("got %+v", snap)
	}
}

func mustWaitAsync(t *testing.T, s state.Store, prefix string, index uint64) state.Snapshot {
	snap, err := s.Wait(testContext(t), prefix, index)
	if err != nil {
		t.Error(err)
	}
	return snap
}

func testCancelledCalls(t *testing.T, s state.Store, prefix string) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Get(ctx, prefix+"a")
	wantErr(t, "get", err, context.Canceled)
	_, err = s.List(ctx, prefix)
	wantErr(t, "list", err, context.Canceled)
	_, err = s.CompareAndSet(ctx, prefix+"a", nil, 0)
	wantErr(t, "set", err, context.Canceled)
	wantErr(t, "delete", s.Delete(ctx, prefix+"a", 1), context.Canceled)
	wantErr(t, "txn", s.Txn(ctx, []state.Op{{Kind: state.OpCAS, Key: prefix + "a"}}), context.Canceled)
	_, err = s.Wait(ctx, prefix, 0)
	wantErr(t, "wait", err, context.Canceled)
	_, err = s.OpenSession(ctx, "x", ttl)
	wantErr(t, "session", err, context.Canceled)
	_, err = s.Get(testContext(t), prefix+"a")
	wantErr(t, "after", err, state.ErrNotFound)
}

func testCloseEndsWait(t *testing.T, s state.Store, prefix string) {
	snap := mustWait(t, s, prefix, 0)
	answer := make(chan error, 1)
	go func() {
		_, err := s.Wait(testContext(t), prefix, snap.Index)
		answer <- err
	}()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "wait", <-answer, state.ErrUnavailable)
	_, err := s.Get(testContext(t), prefix+"a")
	wantErr(t, "get", err, state.ErrUnavailable)
	if err := s.Close(); err != nil {
		t.Errorf("close again: %v", err)
	}
}
