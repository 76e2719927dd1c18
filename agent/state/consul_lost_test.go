package state_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/agent/state/consultest"
)

// Whatever is lost of a write, on the way there or back, it is reported as
// applied, and was applied once.
func TestConsulLostAnswers(t *testing.T) {
	t.Parallel()
	addr := consultest.Start(t)
	direct := openConsul(t, state.ConsulConfig{Address: addr})
	big := bytes.Repeat([]byte("x"), state.MaxValue)
	cases := []struct {
		name string
		// write does it to key, which is at a version, and gives what the call says its new version is (0: it does not say).
		write func(ctx context.Context, s state.Store, key string, at state.Entry, session string) (uint64, error)
		value string
		gone  bool
	}{
		{name: "create", value: "new", write: func(ctx context.Context, s state.Store, key string, _ state.Entry, _ string) (uint64, error) {
			return s.CompareAndSet(ctx, key+"/new", []byte("new"), 0)
		}},
		{name: "update", value: "new", write: func(ctx context.Context, s state.Store, key string, at state.Entry, _ string) (uint64, error) {
			return s.CompareAndSet(ctx, key, []byte("new"), at.Version)
		}},
		{name: "same value", value: "old", write: func(ctx context.Context, s state.Store, key string, at state.Entry, _ string) (uint64, error) {
			return s.CompareAndSet(ctx, key, []byte("old"), at.Version)
		}},
		{name: "large", value: string(big), write: func(ctx context.Context, s state.Store, key string, at state.Entry, _ string) (uint64, error) {
			return s.CompareAndSet(ctx, key, big, at.Version)
		}},
		{name: "delete", gone: true, write: func(ctx context.Context, s state.Store, key string, at state.Entry, _ string) (uint64, error) {
			return 0, s.Delete(ctx, key, at.Version)
		}},
		{name: "transaction", value: "new", write: func(ctx context.Context, s state.Store, key string, at state.Entry, _ string) (uint64, error) {
			return 0, s.Txn(ctx, []state.Op{
				{Kind: state.OpCheck, Key: key + "/absent"},
				{Kind: state.OpCAS, Key: key, Value: []byte("new"), Version: at.Version},
				{Kind: state.OpCAS, Key: key + "/other", Value: []byte("new")},
			})
		}},
		{name: "hold", value: "new", write: func(ctx context.Context, s state.Store, key string, at state.Entry, session string) (uint64, error) {
			return 0, s.Txn(ctx, []state.Op{{Kind: state.OpCAS, Key: key, Value: []byte("new"), Version: at.Version, Session: session}})
		}},
		{name: "delete in a transaction", gone: true, write: func(ctx context.Context, s state.Store, key string, at state.Entry, _ string) (uint64, error) {
			return 0, s.Txn(ctx, []state.Op{{Kind: state.OpDelete, Key: key, Version: at.Version}, {Kind: state.OpDeleteTree, Key: key + "/"}})
		}},
		{name: "delete tree", gone: true, write: func(ctx context.Context, s state.Store, key string, _ state.Entry, _ string) (uint64, error) {
			return 0, s.Txn(ctx, []state.Op{{Kind: state.OpDeleteTree, Key: key}})
		}},
	}
	losses := map[string][]fate{
		"answer cut": {cutAfter}, "answer cut halfway": {cutHalfway}, "answer became 500": {failAfter},
		"request cut": {cutBefore}, "request became 500": {failBefore}, "429": {tooManyThen},
		"twice": {cutBefore, cutAfter}, "thrice": {failBefore, tooManyThen, failAfter},
	}
	for i, c := range cases {
		for loss, fates := range losses {
			t.Run(c.name+"/"+loss, func(t *testing.T) {
				t.Parallel()
				proxy := newCutter(t, addr)
				s := openConsul(t, state.ConsulConfig{Address: proxy.addr()})
				session := openSession(testContext(t), t, direct)
				key := fmt.Sprintf("lost/%d/%d%s", i, len(fates), bytes.ReplaceAll([]byte(loss), []byte(" "), []byte("-")))
				old := mustSet(t, direct, key, "old", 0)
				proxy.plan(nil, fates...)
				version, err := c.write(testContext(t), s, key, state.Entry{Version: old}, session.ID())
				if err != nil {
					t.Fatal(err)
				}
				if c.name == "create" {
					key += "/new"
				}
				e, err := direct.Get(testContext(t), key)
				if c.gone {
					wantErr(t, "get", err, state.ErrNotFound)
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if string(e.Value) != c.value || e.Version == old || version != 0 && version != e.Version {
					t.Errorf("got %.20q at version %d, the call said %d, before it was %d", e.Value, e.Version, version, old)
				}
				if c.name == "hold" && e.Session != session.ID() {
					t.Errorf("it is held by %q", e.Session)
				}
			})
		}
	}
}

// A request of which nothing is heard, as happens to those that a leader's end
// overtakes, is made again early enough for a caller that has not much time.
func TestConsulHangs(t *testing.T) {
	t.Parallel()
	addr := consultest.Start(t)
	direct := openConsul(t, state.ConsulConfig{Address: addr})
	for name, fates := range map[string][]fate{
		"request": {hangBefore}, "answer": {hangAfter}, "two requests": {hangBefore, hangBefore}, "request-then-answer": {hangBefore, hangAfter},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// What hangs takes 3 s of the time by design. A busy machine may need the
			// rest and more, but not always.
			for attempt := 1; ; attempt++ {
				key := fmt.Sprintf("hangs/%s/%d", strings.ReplaceAll(name, " ", "-"), attempt)
				old := mustSet(t, direct, key, "old", 0)
				version, err := setWhileHanging(t, addr, key, old, fates)
				if errors.Is(err, context.DeadlineExceeded) && attempt < 3 {
					t.Log(err)
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				if e, err := direct.Get(testContext(t), key); err != nil || string(e.Value) != "new" || e.Version != version {
					t.Errorf("got %q at version %d, the call said %d: %v", e.Value, e.Version, version, err)
				}
				return
			}
		})
	}
}

// setWhileHanging sets a key to new, in the time that Docker's calls have.
func setWhileHanging(t *testing.T, addr, key string, old uint64, fates []fate) (uint64, error) {
	t.Helper()
	proxy := newCutter(t, addr)
	s := openConsul(t, state.ConsulConfig{Address: proxy.addr()})
	proxy.plan(nil, fates...)
	ctx, cancel := context.WithTimeout(t.Context(), 4500*time.Millisecond)
	defer cancel()
	return s.CompareAndSet(ctx, key, []byte("new"), old)
}

// When another has written since, nobody can know; and another who wrote the
// same value is still another.
func TestConsulLostAndOverwritten(t *testing.T) {
	t.Parallel()
	addr := consultest.Start(t)
	direct := openConsul(t, state.ConsulConfig{Address: addr})
	other := func(key, value string, version uint64) error {
		_, err := direct.CompareAndSet(testContext(t), key, []byte(value), version)
		return err
	}
	for name, c := range map[string]struct {
		fate   fate
		other  string
		create bool
	}{
		"applied, then another":            {cutAfter, "other", false},
		"not applied, another":             {cutBefore, "other", false},
		"not applied, another of the same": {cutBefore, "mine", false},
		"create, another of the same":      {cutBefore, "mine", true},
	} {
		t.Run(name, func(t *testing.T) {
			proxy := newCutter(t, addr)
			s := openConsul(t, state.ConsulConfig{Address: proxy.addr()})
			key := fmt.Sprintf("over/%d/%s/%t", c.fate, c.other, c.create)
			var version uint64
			if !c.create {
				version = mustSet(t, direct, key, "old", 0)
			}
			proxy.plan(func() error {
				now, err := direct.Get(testContext(t), key)
				if err != nil && !errors.Is(err, state.ErrNotFound) {
					return err
				}
				return other(key, c.other, now.Version)
			}, c.fate)
			_, err := s.CompareAndSet(testContext(t), key, []byte("mine"), version)
			wantErr(t, "set", err, state.ErrUnavailable)
		})
	}
	t.Run("deleted, then made again", func(t *testing.T) {
		proxy := newCutter(t, addr)
		s := openConsul(t, state.ConsulConfig{Address: proxy.addr()})
		version := mustSet(t, direct, "over/d", "old", 0)
		proxy.plan(func() error { return other("over/d", "new", 0) }, cutAfter)
		wantErr(t, "delete", s.Delete(testContext(t), "over/d", version), state.ErrUnavailable)
	})
	t.Run("not deleted, changed by another", func(t *testing.T) {
		proxy := newCutter(t, addr)
		s := openConsul(t, state.ConsulConfig{Address: proxy.addr()})
		version := mustSet(t, direct, "over/e", "old", 0)
		proxy.plan(func() error { return other("over/e", "new", version) }, cutBefore)
		wantErr(t, "delete", s.Delete(testContext(t), "over/e", version), state.ErrConflict)
	})
}

func TestConsulAllAnswersLost(t *testing.T) {
	t.Parallel()
	addr := consultest.Start(t)
	for name, f := range map[string]fate{"cut": cutAfter, "500": failAfter} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			proxy := newCutter(t, addr)
			s := openConsul(t, state.ConsulConfig{Address: proxy.addr()})
			proxy.set(addr, f)
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			_, err := s.CompareAndSet(ctx, "all/"+name, []byte("x"), 0)
			wantErr(t, "set", err, state.ErrUnavailable)
			if ctx.Err() != nil {
				t.Error("it did not give up before its deadline")
			}
			_, err = s.Get(ctx, "all/"+name)
			wantErr(t, "get", err, state.ErrUnavailable)
		})
	}
}
