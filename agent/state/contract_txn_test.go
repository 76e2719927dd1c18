package state_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/socketplane/socketplane/agent/state"
)

func testTxnAtomic(t *testing.T, s state.Store, prefix string) {
	ctx := testContext(t)
	a := mustSet(t, s, prefix+"a", "1", 0)
	b := mustSet(t, s, prefix+"b", "1", 0)
	before, err := s.List(ctx, prefix)
	if err != nil {
		t.Fatal(err)
	}
	for name, last := range map[string]state.Op{
		"create of a key that is there": {Kind: state.OpCAS, Key: prefix + "b"},
		"update at another version":     {Kind: state.OpCAS, Key: prefix + "b", Version: b + 1},
		"update of an absent key":       {Kind: state.OpCAS, Key: prefix + "z", Version: b},
		"delete at another version":     {Kind: state.OpDelete, Key: prefix + "b", Version: b + 1},
		"delete of an absent key":       {Kind: state.OpDelete, Key: prefix + "z", Version: b},
		"check of another version":      {Kind: state.OpCheck, Key: prefix + "b", Version: b + 1},
		"check that it is absent":       {Kind: state.OpCheck, Key: prefix + "b"},
		"check of an absent key":        {Kind: state.OpCheck, Key: prefix + "z", Version: b},
	} {
		err := s.Txn(ctx, []state.Op{
			{Kind: state.OpCAS, Key: prefix + "a", Value: []byte("2"), Version: a},
			{Kind: state.OpCAS, Key: prefix + "new", Value: []byte("2")},
			last,
		})
		wantErr(t, name, err, state.ErrConflict)
		after, err := s.List(ctx, prefix)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(before, after); diff != "" {
			t.Errorf("%s: something was written (-before +after):\n%s", name, diff)
		}
	}
	err = s.Txn(ctx, []state.Op{
		{Kind: state.OpCAS, Key: prefix + "a", Value: []byte("2"), Version: a},
		{Kind: state.OpCAS, Key: prefix + "new", Value: []byte("2")},
		{Kind: state.OpDelete, Key: prefix + "b", Version: b},
		{Kind: state.OpCheck, Key: prefix + "z"},
	})
	if err != nil {
		t.Fatal(err)
	}
	after, err := s.List(ctx, prefix)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{prefix + "a", prefix + "new"}, keysOf(after)); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}
}

func testTxnChecks(t *testing.T, s state.Store, prefix string) {
	ctx := testContext(t)
	if err := s.Txn(ctx, nil); err != nil {
		t.Errorf("nothing: %v", err)
	}
	v := mustSet(t, s, prefix+"a", "1", 0)
	ok := []state.Op{{Kind: state.OpCheck, Key: prefix + "a", Version: v}, {Kind: state.OpCheck, Key: prefix + "b"}}
	if err := s.Txn(ctx, ok); err != nil {
		t.Errorf("checks that hold: %v", err)
	}
	if e := mustGet(t, s, prefix+"a"); e.Version != v {
		t.Errorf("a check changed the version from %d to %d", v, e.Version)
	}
	wantErr(t, "a check that fails", s.Txn(ctx, []state.Op{{Kind: state.OpCheck, Key: prefix + "a", Version: v + 1}}), state.ErrConflict)
}

func testTxnLimits(t *testing.T, s state.Store, prefix string) {
	ctx := testContext(t)
	creates := func(n int, value []byte) []state.Op {
		var ops []state.Op
		for i := range n {
			ops = append(ops, state.Op{Kind: state.OpCAS, Key: fmt.Sprintf("%s%d/%d", prefix, n, i), Value: value})
		}
		return ops
	}
	long := creates(state.MaxTxnOps, []byte("x"))
	if err := s.Txn(ctx, long); err != nil {
		t.Errorf("%d operations: %v", len(long), err)
	}
	wantErr(t, "one too many", s.Txn(ctx, creates(state.MaxTxnOps+1, nil)), state.ErrInvalid)
	// The largest transaction that is let through must pass the server too.
	keys := strings.Repeat("k", 512-len(prefix)-3)
	var full []state.Op
	for i := range state.MaxTxnOps {
		full = append(full, state.Op{Kind: state.OpCAS, Key: fmt.Sprintf("%s%s%d", prefix, keys, i), Value: bytes.Repeat([]byte{0xff}, 2448)})
	}
	if err := s.Txn(ctx, full); err != nil {
		t.Errorf("a full transaction: %v", err)
	}
	wantErr(t, "too large", s.Txn(ctx, creates(3, make([]byte, 200<<10))), state.ErrInvalid)
	wantErr(t, "too large a value", s.Txn(ctx, creates(1, make([]byte, state.MaxValue+1))), state.ErrInvalid)
	wantErr(t, "a key twice", s.Txn(ctx, append(creates(2, nil), creates(2, nil)...)), state.ErrInvalid)
	wantErr(t, "unknown kind", s.Txn(ctx, []state.Op{{Kind: 99, Key: prefix + "a"}}), state.ErrInvalid)
}

func testDeleteTree(t *testing.T, s state.Store, prefix string) {
	ctx := testContext(t)
	for _, key := range []string{"net/a", "net/b/c", "network", "other"} {
		mustSet(t, s, prefix+key, "x", 0)
	}
	err := s.Txn(ctx, []state.Op{
		{Kind: state.OpDeleteTree, Key: prefix + "net/"},
		{Kind: state.OpDeleteTree, Key: prefix + "absent/"},
		{Kind: state.OpCAS, Key: prefix + "net/new", Value: []byte("y")},
	})
	if err != nil {
		t.Fatal(err)
	}
	entries, err := s.List(ctx, prefix)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{prefix + "net/new", prefix + "network", prefix + "other"}
	if diff := cmp.Diff(want, keysOf(entries)); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}
}
