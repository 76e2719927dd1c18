package state_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/agent/state/consultest"
)

// Every increment that was acknowledged is there, and none was applied twice,
// while the server is killed and started again.
func TestConsulKilledDuringWrites(t *testing.T) {
	t.Parallel()
	server := consultest.New(t, consultest.Options{})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	const workers = 4
	type tally struct{ acknowledged, unknown int }
	tallies := make([]tally, workers)
	key := func(worker int) string { return "kill/" + strconv.Itoa(worker) }
	var wg sync.WaitGroup
	for worker := range workers {
		wg.Go(func() {
			s := openConsul(t, state.ConsulConfig{Address: server.Addr})
			// Alone on its key: a conflict would be one with itself.
			for ctx.Err() == nil {
				call, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
				conflicts, err := increment(call, s, key(worker))
				cancel()
				switch {
				case conflicts != 0:
					t.Errorf("worker %d: %d conflicts with itself", worker, conflicts)
				case err == nil:
					tallies[worker].acknowledged++
				case errors.Is(err, state.ErrUnavailable):
					tallies[worker].unknown++
				default:
					t.Error(err)
				}
			}
		})
	}
	watch := openConsul(t, state.ConsulConfig{Address: server.Addr})
	for range 3 {
		// Let some writes through, then cut the power.
		progress(t, watch, "kill/", workers)
		server.Kill()
		if err := server.Restart(); err != nil {
			t.Fatal(err)
		}
	}
	progress(t, watch, "kill/", workers)
	stop()
	wg.Wait()
	for worker, tally := range tallies {
		n, err := strconv.Atoi(string(mustGet(t, watch, key(worker)).Value))
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("worker %d: %d acknowledged, %d unknown, counter %d", worker, tally.acknowledged, tally.unknown, n)
		if n < tally.acknowledged || n > tally.acknowledged+tally.unknown {
			t.Errorf("worker %d: the counter is %d after %d acknowledged and %d unknown", worker, n, tally.acknowledged, tally.unknown)
		}
	}
}

// progress waits until the prefix has changed some times.
func progress(t *testing.T, s state.Store, prefix string, times int) {
	t.Helper()
	ctx := testContext(t)
	var index uint64
	for seen := 0; seen < times; {
		snap, err := s.Wait(ctx, prefix, index)
		switch {
		case ctx.Err() != nil:
			t.Fatal("nothing is written any more")
		case err == nil && snap.Index != index:
			seen++
			index = snap.Index
		}
	}
}

func TestConsulACL(t *testing.T) {
	// Not one of these may be used.
	t.Setenv("CONSUL_HTTP_TOKEN_FILE", "/nonexistent")
	t.Setenv("CONSUL_HTTP_ADDR", "https://192.0.2.1:1")
	t.Setenv("CONSUL_HTTP_SSL", "true")
	t.Setenv("CONSUL_NAMESPACE", "other")
	t.Setenv("CONSUL_PARTITION", "other")
	server := consultest.New(t, consultest.Options{ACL: true})
	t.Setenv("CONSUL_HTTP_TOKEN", server.Token)

	boss := openConsul(t, state.ConsulConfig{Address: server.Addr, Token: server.Token})
	mustSet(t, boss, "acl/a/1", "x", 0)
	mustSet(t, boss, "acl/b/1", "x", 0)

	for name, cfg := range map[string]state.ConsulConfig{
		"no token":      {Address: server.Addr},
		"unknown token": {Address: server.Addr, Token: "11111111-2222-3333-4444-555555555555"},
	} {
		t.Run(name, func(t *testing.T) {
			s, ctx := openConsul(t, cfg), testContext(t)
			_, getErr := s.Get(ctx, "acl/a/1")
			_, listErr := s.List(ctx, "acl/")
			_, waitErr := s.Wait(ctx, "acl/", 0)
			_, againErr := s.Wait(ctx, "acl/", 5)
			_, casErr := s.CompareAndSet(ctx, "acl/a/1", nil, 0)
			_, sessionErr := s.OpenSession(ctx, "x", ttl)
			for what, err := range map[string]error{
				"get": getErr, "list": listErr, "wait": waitErr, "wait again": againErr, "set": casErr, "session": sessionErr,
				"delete": s.Delete(ctx, "acl/a/1", 1),
				"txn":    s.Txn(ctx, []state.Op{{Kind: state.OpCheck, Key: "acl/a/1"}}),
			} {
				wantErr(t, what, err, state.ErrInvalid)
				if err != nil && !strings.Contains(err.Error(), "permission denied: check the token") {
					t.Errorf("%s: the message does not help: %v", what, err)
				}
			}
		})
	}
	if got := boss.String(); strings.Contains(got, server.Token) || got != "consul "+server.Addr {
		t.Errorf("its name is %q", got)
	}
}

func TestConsulTokenOfPart(t *testing.T) {
	t.Parallel()
	server := consultest.New(t, consultest.Options{ACL: true})
	boss := openConsul(t, state.ConsulConfig{Address: server.Addr, Token: server.Token})
	mustSet(t, boss, "acl/a/1", "x", 0)
	mustSet(t, boss, "acl/b/1", "x", 0)
	admin, err := api.NewClient(&api.Config{Address: server.Addr, Token: server.Token})
	if err != nil {
		t.Fatal(err)
	}
	policy, _, err := admin.ACL().PolicyCreate(&api.ACLPolicy{Name: "part", Rules: `key_prefix "acl/a" { policy = "write" }`}, nil)
	if err != nil {
		t.Fatal(err)
	}
	token, _, err := admin.ACL().TokenCreate(&api.ACLToken{Policies: []*api.ACLLink{{ID: policy.ID}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "token")
	writeFile(t, file, server.Token+"\n")
	s, ctx := openConsul(t, state.ConsulConfig{Address: server.Addr, TokenFile: file}), testContext(t)
	if entries, err := s.List(ctx, "acl/"); err != nil || len(entries) != 2 {
		t.Errorf("with the first token of the file: %v, %v", entries, err)
	}
	writeFile(t, file, token.SecretID) // a new token is taken up
	if entries, err := s.List(ctx, "acl/a/"); err != nil || len(entries) != 1 {
		t.Errorf("what it may read: %v, %v", entries, err)
	}
	mustSet(t, s, "acl/a/2", "x", 0)
	_, err = s.List(ctx, "acl/")
	wantErr(t, "list of what it may read in part", err, state.ErrInvalid)
	_, err = s.Wait(ctx, "acl/", 0)
	wantErr(t, "wait on what it may read in part", err, state.ErrInvalid)
	_, err = s.List(ctx, "acl/b/")
	wantErr(t, "list of what it may not read", err, state.ErrInvalid)
}

func TestConsulRefusedConnection(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := "http://" + listener.Addr().String()
	listener.Close()
	s := openConsul(t, state.ConsulConfig{Address: addr})
	for what, call := range map[string]func(context.Context) error{
		"get":  func(ctx context.Context) error { _, err := s.Get(ctx, "a"); return err },
		"set":  func(ctx context.Context) error { _, err := s.CompareAndSet(ctx, "a", nil, 0); return err },
		"wait": func(ctx context.Context) error { _, err := s.Wait(ctx, "a", 9); return err },
	} {
		// Each has a third of what a call has that sets no deadline.
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		err := call(ctx)
		if ctx.Err() != nil {
			t.Errorf("%s: it did not fail fast", what)
		}
		cancel()
		wantErr(t, what, err, state.ErrUnavailable)
		if !strings.Contains(err.Error(), addr+": connection refused") {
			t.Errorf("%s: the message does not help: %v", what, err)
		}
	}
}

// A server that takes requests and never answers is given up by the caller's deadline.
func TestConsulSilentServer(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	silent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}))
	defer silent.Close()
	defer close(release)
	s := openConsul(t, state.ConsulConfig{Address: silent.URL})
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := s.CompareAndSet(ctx, "a", nil, 0)
	wantErr(t, "set", err, state.ErrUnavailable)
	wantErr(t, "set", err, context.DeadlineExceeded)
	_, err = s.CompareAndSet(t.Context(), "a", nil, 0)
	wantErr(t, "set without a deadline", err, state.ErrUnavailable)
}

// Something that speaks HTTP and is no Consul must not look like an empty one.
func TestConsulIsNone(t *testing.T) {
	for name, handler := range map[string]http.HandlerFunc{
		"404": http.NotFound,
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://192.0.2.1/", http.StatusFound)
		},
		"page": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(handler)
			defer server.Close()
			s := openConsul(t, state.ConsulConfig{Address: server.URL})
			_, err := s.Get(testContext(t), "a")
			if !errors.Is(err, state.ErrInvalid) && !errors.Is(err, state.ErrUnavailable) {
				t.Errorf("get: %v", err)
			}
			entries, err := s.List(testContext(t), "a/")
			if err == nil {
				t.Errorf("list: got %v", entries)
			}
		})
	}
}

// A Consul that was made anew has lower indexes: whoever waits hears of it.
func TestConsulIndexGoesBackwards(t *testing.T) {
	t.Parallel()
	first, second := consultest.Start(t), consultest.Start(t)
	old, fresh := openConsul(t, state.ConsulConfig{Address: first}), openConsul(t, state.ConsulConfig{Address: second})
	var v uint64
	for range 300 {
		v = mustSet(t, old, "back/a", "old", v)
	}
	mustSet(t, fresh, "back/b", "new", 0)
	proxy := newCutter(t, first)
	s := openConsul(t, state.ConsulConfig{Address: proxy.addr()})
	snap := mustWait(t, s, "back/", 0)
	got := make(chan state.Snapshot, 1)
	go func() { got <- mustWaitAsync(t, s, "back/", snap.Index) }()
	mustGet(t, s, "back/a")
	proxy.set(second, pass)
	proxy.cutAll()
	next := <-got
	if len(next.Entries) != 1 || next.Entries[0].Key != "back/b" || next.Index >= snap.Index {
		t.Errorf("got %+v after index %d", next, snap.Index)
	}
	quiet(t, s, "back/", next.Index, func() { mustGet(t, s, "back/b") })
}
