package state_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/agent/state/consultest"
)

// contract is what every store does alike. Each case gets a store and a prefix
// of its own.
var contract = []struct {
	name string
	test func(t *testing.T, s state.Store, prefix string)
}{
	{"get of an absent key", testAbsent},
	{"compare and set", testCompareAndSet},
	{"values", testValues},
	{"concurrent increments", testIncrements},
	{"one creator wins", testOneCreator},
	{"delete", testDelete},
	{"list", testList},
	{"bad keys", testBadKeys},
	{"transaction is atomic", testTxnAtomic},
	{"transaction checks", testTxnChecks},
	{"transaction limits", testTxnLimits},
	{"delete tree", testDeleteTree},
	{"held key", testHeldKey},
	{"holder ends", testHolderEnds},
	{"session of another", testHeldByAnother},
	{"session stops being renewed", testSessionUnrenewed},
	{"a held key fences", testFence},
	{"nodes", testNodes},
	{"wait resumes", testWaitResumes},
	{"wait sees deletion", testWaitDeletion},
	{"wait coalesces", testWaitCoalesces},
	{"wait is cancelled", testWaitCancelled},
	{"wait on an empty prefix", testWaitEmpty},
	{"wait on a prefix only", testWaitPrefix},
	{"wait from a future index", testWaitFuture},
	{"cancelled calls", testCancelledCalls},
	{"close ends a wait", testCloseEndsWait},
}

func TestContract(t *testing.T) {
	t.Parallel()
	stores := map[string]func(t *testing.T) state.Store{
		"consul": func() func(t *testing.T) state.Store {
			addr := consultest.Start(t)
			return func(t *testing.T) state.Store { return openConsul(t, state.ConsulConfig{Address: addr}) }
		}(),
		"embedded": func(t *testing.T) state.Store {
			return openEmbedded(t, filepath.Join(t.TempDir(), "state.db"))
		},
	}
	for name, open := range stores {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for i, c := range contract {
				t.Run(c.name, func(t *testing.T) {
					t.Parallel()
					c.test(t, open(t), fmt.Sprintf("%stest/%d/", state.Prefix, i))
				})
			}
		})
	}
}

func openConsul(t *testing.T, cfg state.ConsulConfig) state.Store {
	t.Helper()
	cfg.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	s, err := state.OpenConsul(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func openEmbedded(t *testing.T, path string) state.Store {
	t.Helper()
	s, err := state.OpenEmbedded(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// testContext bounds every call of a test.
func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func mustSet(t *testing.T, s state.Store, key, value string, version uint64) uint64 {
	t.Helper()
	got, err := s.CompareAndSet(testContext(t), key, []byte(value), version)
	if err != nil {
		t.Fatal(err)
	}
	if got == 0 || got == version {
		t.Fatalf("set %q at version %d: new version %d", key, version, got)
	}
	return got
}

func mustGet(t *testing.T, s state.Store, key string) state.Entry {
	t.Helper()
	e, err := s.Get(testContext(t), key)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func wantErr(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got error %v, want %v", what, err, want)
	}
}

func keysOf(entries []state.Entry) []string {
	keys := []string{}
	for _, e := range entries {
		keys = append(keys, e.Key)
	}
	return keys
}

func testAbsent(t *testing.T, s state.Store, prefix string) {
	_, err := s.Get(testContext(t), prefix+"a")
	wantErr(t, "get", err, state.ErrNotFound)
	entries, err := s.List(testContext(t), prefix)
	if err != nil || entries == nil || len(entries) != 0 {
		t.Errorf("list: got %v, %v, want an empty list", entries, err)
	}
}

func testCompareAndSet(t *testing.T, s state.Store, prefix string) {
	key := prefix + "a"
	_, err := s.CompareAndSet(testContext(t), key, []byte("x"), 7)
	wantErr(t, "update of an absent key", err, state.ErrConflict)
	v1 := mustSet(t, s, key, "one", 0)
	_, err = s.CompareAndSet(testContext(t), key, []byte("x"), 0)
	wantErr(t, "create of a key that is there", err, state.ErrConflict)
	v2 := mustSet(t, s, key, "two", v1)
	_, err = s.CompareAndSet(testContext(t), key, []byte("x"), v1)
	wantErr(t, "update at an old version", err, state.ErrConflict)
	v3 := mustSet(t, s, key, "two", v2) // the same value again is a write too
	want := state.Entry{Key: key, Value: []byte("two"), Version: v3}
	if diff := cmp.Diff(want, mustGet(t, s, key)); diff != "" {
		t.Errorf("entry (-want +got):\n%s", diff)
	}
}

func testValues(t *testing.T, s state.Store, prefix string) {
	for name, value := range map[string][]byte{
		"empty": {}, "binary": {0, 1, 0xff, '\n'}, "json": []byte(`{"a":"<&>"}`),
		"one transaction's": bytes.Repeat([]byte("x"), 380<<10), "largest": bytes.Repeat([]byte{0xfe}, state.MaxValue),
	} {
		key := prefix + strings.ReplaceAll(name, " ", "-")
		version, err := s.CompareAndSet(testContext(t), key, value, 0)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if e := mustGet(t, s, key); !bytes.Equal(e.Value, value) || e.Version != version || e.Value == nil {
			t.Errorf("%s: got %d bytes at %d, want %d at %d", name, len(e.Value), e.Version, len(value), version)
		}
		_, err = s.CompareAndSet(testContext(t), key, value, version+1000)
		wantErr(t, name+": conflict", err, state.ErrConflict)
		mustSet(t, s, key, "small", version)
	}
	_, err := s.CompareAndSet(testContext(t), prefix+"big", make([]byte, state.MaxValue+1), 0)
	wantErr(t, "too large a value", err, state.ErrInvalid)
}

// increment adds one to the number at key until it succeeds.
func increment(ctx context.Context, s state.Store, key string) (conflicts int, err error) {
	for {
		e, err := s.Get(ctx, key)
		if err != nil && !errors.Is(err, state.ErrNotFound) {
			return conflicts, err
		}
		n := 0
		if e.Version != 0 {
			if n, err = strconv.Atoi(string(e.Value)); err != nil {
				return conflicts, err
			}
		}
		_, err = s.CompareAndSet(ctx, key, []byte(strconv.Itoa(n+1)), e.Version)
		if !errors.Is(err, state.ErrConflict) {
			return conflicts, err
		}
		conflicts++
	}
}

func testIncrements(t *testing.T, s state.Store, prefix string) {
	const workers, rounds = 6, 10
	ctx := testContext(t)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range rounds {
				if _, err := increment(ctx, s, prefix+"n"); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if got := string(mustGet(t, s, prefix+"n").Value); got != strconv.Itoa(workers*rounds) {
		t.Errorf("counter: got %s, want %d", got, workers*rounds)
	}
}

func testOneCreator(t *testing.T, s state.Store, prefix string) {
	ctx := testContext(t)
	var won atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			// All write the same value: that must not make two winners.
			switch _, err := s.CompareAndSet(ctx, prefix+"vlan", []byte("net"), 0); {
			case err == nil:
				won.Add(1)
			case !errors.Is(err, state.ErrConflict):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d creators won", won.Load())
	}
}

func testDelete(t *testing.T, s state.Store, prefix string) {
	ctx, key := testContext(t), prefix+"a"
	wantErr(t, "absent", s.Delete(ctx, key, 5), state.ErrConflict)
	wantErr(t, "absent at version 0", s.Delete(ctx, key, 0), state.ErrConflict)
	v1 := mustSet(t, s, key, "one", 0)
	v2 := mustSet(t, s, key, "two", v1)
	wantErr(t, "old version", s.Delete(ctx, key, v1), state.ErrConflict)
	if err := s.Delete(ctx, key, v2); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "again", s.Delete(ctx, key, v2), state.ErrConflict)
	_, err := s.Get(ctx, key)
	wantErr(t, "get", err, state.ErrNotFound)
	_, err = s.CompareAndSet(ctx, key, []byte("x"), v2)
	wantErr(t, "update of a deleted key", err, state.ErrConflict)
	if v3 := mustSet(t, s, key, "three", 0); v3 <= v2 {
		t.Errorf("version %d after the deletion of version %d", v3, v2)
	}
}

func testList(t *testing.T, s state.Store, prefix string) {
	for _, key := range []string{"b", "a/2", "a/10", "ab", "a/1", "a"} {
		mustSet(t, s, prefix+key, key, 0)
	}
	for under, want := range map[string][]string{
		"":    {"a", "a/1", "a/10", "a/2", "ab", "b"},
		"a/":  {"a/1", "a/10", "a/2"},
		"a/1": {"a/1", "a/10"},
		"c/":  {},
	} {
		entries, err := s.List(testContext(t), prefix+under)
		if err != nil {
			t.Fatal(err)
		}
		got := keysOf(entries)
		for i := range got {
			got[i] = strings.TrimPrefix(got[i], prefix)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("list %q (-want +got):\n%s", under, diff)
		}
		for _, e := range entries {
			if string(e.Value) != strings.TrimPrefix(e.Key, prefix) || e.Version == 0 {
				t.Errorf("list %q: entry %q has value %q at version %d", under, e.Key, e.Value, e.Version)
			}
		}
	}
}

func testBadKeys(t *testing.T, s state.Store, prefix string) {
	ctx := testContext(t)
	for _, key := range []string{
		"", "/", "/a", "a/", "a//b", "a/../b", "a/./b", "..", "a b", " a", "a\nb", "a\x00b", "é", `a"b`, `a\b`,
		"a%20b", "a/%2e%2e/b", strings.Repeat("k", 513),
	} {
		_, err := s.Get(ctx, key)
		wantErr(t, fmt.Sprintf("get %q", key), err, state.ErrInvalid)
		_, err = s.CompareAndSet(ctx, key, nil, 0)
		wantErr(t, fmt.Sprintf("set %q", key), err, state.ErrInvalid)
		wantErr(t, fmt.Sprintf("delete %q", key), s.Delete(ctx, key, 1), state.ErrInvalid)
		wantErr(t, fmt.Sprintf("check %q", key), s.Txn(ctx, []state.Op{{Kind: state.OpCheck, Key: key}}), state.ErrInvalid)
	}
	for _, bad := range []string{"", "/", "a//", "/a", "a/../"} {
		_, err := s.List(ctx, bad)
		wantErr(t, fmt.Sprintf("list %q", bad), err, state.ErrInvalid)
		_, err = s.Wait(ctx, bad, 0)
		wantErr(t, fmt.Sprintf("wait %q", bad), err, state.ErrInvalid)
		wantErr(t, fmt.Sprintf("delete tree %q", bad), s.Txn(ctx, []state.Op{{Kind: state.OpDeleteTree, Key: bad}}), state.ErrInvalid)
	}
	for _, key := range []string{"fd00:1::/64", "10.6.0.0%2F16", "a_b-c.d~e", "x=1,y@2+3!", "..a", strings.Repeat("k", 400)} {
		mustSet(t, s, prefix+key, key, 0)
		if e := mustGet(t, s, prefix+key); string(e.Value) != key {
			t.Errorf("key %q: got %q", key, e.Value)
		}
	}
}
