package ipam_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/agent/state/statetest"
	"github.com/socketplane/socketplane/ipam"
)

// counted counts the requests that a store gets.
type counted struct {
	state.Store
	calls map[string]int
}

func (s *counted) Get(ctx context.Context, key string) (state.Entry, error) {
	s.calls["get"]++
	return s.Store.Get(ctx, key)
}

func (s *counted) List(ctx context.Context, prefix string) ([]state.Entry, error) {
	s.calls["list"]++
	return s.Store.List(ctx, prefix)
}

func (s *counted) CompareAndSet(ctx context.Context, key string, value []byte, version uint64) (uint64, error) {
	s.calls["cas"]++
	return s.Store.CompareAndSet(ctx, key, value, version)
}

func (s *counted) Delete(ctx context.Context, key string, version uint64) error {
	s.calls["delete"]++
	return s.Store.Delete(ctx, key, version)
}

// One allocation is one write, and so is one release: a whole subnet is read
// only when it is first used.
func TestCost(t *testing.T) {
	store := &counted{Store: statetest.New(), calls: map[string]int{}}
	p := pool("10.6.0.0/16")
	a := ipam.New(store, "h1")
	for i := range 200 {
		mustAllocate(t, a, p, fmt.Sprint(i))
	}
	if diff := cmp.Diff(map[string]int{"list": 1, "cas": 200}, store.calls); diff != "" {
		t.Error("200 allocations:", diff)
	}
	clear(store.calls)
	for i := range 200 {
		if err := a.Release(t.Context(), p, fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(map[string]int{"cas": 196, "delete": 4}, store.calls); diff != "" {
		t.Error("200 releases of four blocks:", diff)
	}
}

// lossy applies writes and then says that it could not be reached.
type lossy struct {
	state.Store
	mu   sync.Mutex
	lose bool
}

func (s *lossy) CompareAndSet(ctx context.Context, key string, value []byte, version uint64) (uint64, error) {
	v, err := s.Store.CompareAndSet(ctx, key, value, version)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lose {
		return 0, fmt.Errorf("set %q: %w", key, state.ErrUnavailable)
	}
	return v, err
}

func TestAnswerLost(t *testing.T) {
	store := &lossy{Store: statetest.New()}
	p := pool("10.6.0.0/24")
	a := ipam.New(store, "h1")
	mustAllocate(t, a, p, "a")
	store.lose = true
	if _, err := a.Allocate(t.Context(), p, "b"); !errors.Is(err, state.ErrUnavailable) {
		t.Fatalf("Allocate = %v, want ErrUnavailable", err)
	}
	if err := a.Release(t.Context(), p, "a"); !errors.Is(err, state.ErrUnavailable) {
		t.Fatalf("Release = %v, want ErrUnavailable", err)
	}
	store.lose = false
	if got := mustAllocate(t, a, p, "b"); got != addr("10.6.0.3") {
		t.Errorf("asked again, got %s, want the 10.6.0.3 that was written", got)
	}
	for _, owner := range []string{"a", "b"} {
		if err := a.Release(t.Context(), p, owner); err != nil {
			t.Fatal(err)
		}
	}
	mustBeEmpty(t, store)
}
