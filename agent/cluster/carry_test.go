package cluster

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/agent/state/consultest"
)

// What a host alone has comes to a cluster's Consul whole, also when it is done
// again after half of it, and never over what somebody else wrote.
func TestCarryOver(t *testing.T) {
	ctx := t.Context()
	from, err := state.OpenEmbedded(filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	to, err := state.OpenConsul(state.ConsulConfig{Address: consultest.Start(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	put := func(s state.Store, key, value string) {
		t.Helper()
		if _, err := s.CompareAndSet(ctx, state.Prefix+key, []byte(value), 0); err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range []string{"networks/web", "vlans/2", "ipam/10.6.0.0_16/0", "endpoints/web/h", "hosts/h"} {
		put(from, key, "value of "+key)
	}
	put(to, "networks/web", "value of networks/web") // half of it is there
	for range 2 {
		if n, err := carryOver(ctx, from, to); err != nil || n != 4 {
			t.Fatalf("%d, %v", n, err)
		}
	}
	entries, err := to.List(ctx, state.Prefix)
	if err != nil || len(entries) != 4 {
		t.Fatalf("%v, %v", entries, err)
	}
	for _, e := range entries {
		if string(e.Value) != "value of "+strings.TrimPrefix(e.Key, state.Prefix) {
			t.Errorf("%s: %q", e.Key, e.Value)
		}
	}
	put(from, "networks/other", "ours")
	put(to, "networks/other", "theirs")
	if _, err := carryOver(ctx, from, to); !errors.Is(err, state.ErrConflict) || !strings.Contains(err.Error(), "networks/other") {
		t.Errorf("%v", err)
	}
	found, err := obstacles(ctx, from)
	if err != nil || strings.Join(found, "; ") != `network "other"; network "web"; endpoints on network "web"` {
		t.Errorf("%q, %v", found, err)
	}

	const id, other = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
	if err := checkCluster(ctx, to, id); !errors.Is(err, errNotYet) {
		t.Errorf("%v", err)
	}
	for range 2 {
		if err := markCluster(ctx, to, id); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(checkCluster(ctx, to, id), markCluster(ctx, to, id)); err != nil {
		t.Error(err)
	}
	if err := checkCluster(ctx, to, other); err == nil || !strings.Contains(err.Error(), other) {
		t.Errorf("%v", err)
	}
}
