package state_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"slices"
	"testing"

	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/agent/state/consultest"
)

// testFence: who writes with a check on a key that it holds writes nothing more
// once its session has ended, whether or not another holds the key by then.
func testFence(t *testing.T, s state.Store, prefix string) {
	ctx, lock := testContext(t), prefix+"lock"
	first := openSession(ctx, t, s)
	e := mustHold(t, s, lock, "first", 0, first)
	write := func(key string, version uint64) error {
		return s.Txn(ctx, []state.Op{
			{Kind: state.OpCheck, Key: lock, Version: version},
			{Kind: state.OpCAS, Key: prefix + key, Value: []byte("x")},
		})
	}
	if err := write("a", e.Version); err != nil {
		t.Fatal(err)
	}
	if err := first.Close(ctx); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "write behind the session's end", write("b", e.Version), state.ErrConflict)
	free := mustGet(t, s, lock)
	next := mustHold(t, s, lock, "second", free.Version, openSession(ctx, t, s))
	wantErr(t, "write under another's lock", write("b", e.Version), state.ErrConflict)
	if err := write("c", next.Version); err != nil {
		t.Error(err)
	}
}

// testNodes: no store holds the machine that asks it for dead.
func testNodes(t *testing.T, s state.Store, _ string) {
	ctx := testContext(t)
	node, err := s.Node(ctx)
	if err != nil {
		t.Fatal(err)
	}
	failed, err := s.FailedNodes(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if node != "" && slices.Contains(failed, node) {
		t.Errorf("this machine, %q, is among the failed: %q", node, failed)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := s.Node(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("Node after the end: %v", err)
	}
	if _, err := s.FailedNodes(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("FailedNodes after the end: %v", err)
	}
}

// TestConsulNodes: the node that is asked is this machine's, since its address
// is; and of the others those have failed whose gossip is not answered, whatever
// else may be wrong with one.
func TestConsulNodes(t *testing.T) {
	t.Parallel()
	addr := consultest.Start(t)
	s := openConsul(t, state.ConsulConfig{Address: addr})
	ctx := testContext(t)
	if node, err := s.Node(ctx); err != nil || node != "consultest" {
		t.Errorf("Node: %q, %v", node, err)
	}
	for _, body := range []string{
		`{"Node":"dead","Address":"192.0.2.9","Check":{"CheckID":"serfHealth","Name":"Serf","Status":"critical"}}`,
		`{"Node":"well","Address":"192.0.2.8","Check":{"CheckID":"serfHealth","Name":"Serf","Status":"passing"}}`,
		`{"Node":"ill","Address":"192.0.2.7","Check":{"CheckID":"disk","Name":"disk","Status":"critical"}}`,
	} {
		req, err := http.NewRequestWithContext(ctx, http.MethodPut, addr+"/v1/catalog/register", bytes.NewBufferString(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%v, %v", resp, err)
		}
		resp.Body.Close()
	}
	if failed, err := s.FailedNodes(ctx); err != nil || !slices.Equal(failed, []string{"dead"}) {
		t.Errorf("FailedNodes: %q, %v", failed, err)
	}
}
