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

// testNodes: every store that knows this machine knows that it lives.
func testNodes(t *testing.T, s state.Store, _ string) {
	ctx := testContext(t)
	node, err := s.Node(ctx)
	if err != nil {
		t.Fatal(err)
	}
	live, err := s.LiveNodes(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if node != "" && !slices.Contains(live, node) {
		t.Errorf("this machine, %q, is not among the living: %q", node, live)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := s.Node(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("Node after the end: %v", err)
	}
	if _, err := s.LiveNodes(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("LiveNodes after the end: %v", err)
	}
}

// TestConsulNodes: the node that is asked is this machine's, since its address
// is; and of the others those live whose gossip is answered, whatever else may be
// said of one; who may not see them all is told so.
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
		`{"Node":"ill","Address":"192.0.2.7","Check":{"CheckID":"disk","Name":"disk","Status":"passing"}}`,
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
	live, err := s.LiveNodes(ctx)
	slices.Sort(live)
	if err != nil || !slices.Equal(live, []string{"consultest", "well"}) {
		t.Errorf("LiveNodes: %q, %v", live, err)
	}
	secret := consultest.New(t, consultest.Options{ACL: true})
	if live, err := openConsul(t, state.ConsulConfig{Address: secret.Addr}).LiveNodes(ctx); !errors.Is(err, state.ErrInvalid) {
		t.Errorf("LiveNodes without a token: %q, %v", live, err)
	}
	if live, err := openConsul(t, state.ConsulConfig{Address: secret.Addr, Token: secret.Token}).LiveNodes(ctx); err != nil || len(live) != 1 {
		t.Errorf("LiveNodes with a token: %q, %v", live, err)
	}
}
