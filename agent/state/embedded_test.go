package state_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/socketplane/socketplane/agent/state"
)

func TestEmbeddedReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "made", "state.db")
	s := openEmbedded(t, path)
	v := mustSet(t, s, "a/1", "one", 0)
	v = mustSet(t, s, "a/1", "two", v)
	gone := mustSet(t, s, "a/gone", "x", 0)
	session := openSession(t.Context(), t, s)
	held := mustHold(t, s, "a/held", "mine", 0, session)
	snap := mustWait(t, s, "a/", 0)
	if err := s.Delete(testContext(t), "a/gone", gone); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file: %v, %v", info.Mode(), err)
	}

	s = openEmbedded(t, path)
	if diff := cmp.Diff(state.Entry{Key: "a/1", Value: []byte("two"), Version: v}, mustGet(t, s, "a/1")); diff != "" {
		t.Errorf("entry (-want +got):\n%s", diff)
	}
	e := mustGet(t, s, "a/held")
	if e.Session != "" || string(e.Value) != "mine" || e.Version <= held.Version {
		t.Errorf("a key held by the last process: %+v", e)
	}
	if next := mustWait(t, s, "a/", snap.Index); len(next.Entries) != 2 {
		t.Errorf("what was deleted before is not seen: %+v", next)
	}
	wantErr(t, "hold under a session of the last process", hold(t, s, "a/held", "x", e.Version, session), state.ErrInvalid)
	if v := mustSet(t, s, "a/gone", "y", 0); v <= e.Version {
		t.Errorf("version %d was given before", v)
	}
}

func TestEmbeddedSecondOpener(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	openEmbedded(t, path)
	_, err := state.OpenEmbedded(path)
	wantErr(t, "second opener", err, state.ErrUnavailable)
	if !strings.Contains(err.Error(), "another process has it open") {
		t.Errorf("the message does not help: %v", err)
	}
}

func TestEmbeddedBadFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	writeFile(t, path, strings.Repeat("no database\n", 4096))
	if s, err := state.OpenEmbedded(path); err == nil {
		t.Errorf("opened %v", s)
	}
	if content, err := os.ReadFile(path); err != nil || !strings.HasPrefix(string(content), "no database") {
		t.Errorf("it was written over: %v", err)
	}
}

// More deletions than are remembered: a waiter may be woken for nothing, and
// never misses one.
func TestEmbeddedManyDeletions(t *testing.T) {
	s := openEmbedded(t, filepath.Join(t.TempDir(), "state.db"))
	mustSet(t, s, "a/1", "x", 0)
	v := mustSet(t, s, "a/2", "x", 0)
	snap := mustWait(t, s, "a/", 0)
	if err := s.Delete(testContext(t), "a/2", v); err != nil {
		t.Fatal(err)
	}
	for round := range 40 {
		var ops []state.Op
		for i := range state.MaxTxnOps {
			ops = append(ops, state.Op{Kind: state.OpCAS, Key: fmt.Sprintf("b/%d/%d", round, i)})
		}
		for _, ops := range [][]state.Op{ops, {{Kind: state.OpDeleteTree, Key: "b/"}}} {
			if err := s.Txn(context.Background(), ops); err != nil {
				t.Fatal(err)
			}
		}
	}
	if snap = mustWait(t, s, "a/", snap.Index); len(snap.Entries) != 1 {
		t.Errorf("got %+v", snap)
	}
	quiet(t, s, "a/", snap.Index, func() {})
}
