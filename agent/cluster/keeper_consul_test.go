package cluster

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/agent/state/consultest"
)

// A host begins a cluster and leaves it: all that speaks to its Consul does so by
// the socket, and nothing of it stays.
func TestKeeperBySocket(t *testing.T) {
	ctx := aMinute(t)
	binary, err := consultest.Binary()
	if err != nil {
		t.Fatal(err)
	}
	ports, err := consultest.FreePorts(2)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(binary, filepath.Join(dir, "bin", "consul")); err != nil {
		t.Fatal(err)
	}
	k, err := NewKeeper(KeeperConfig{
		Dir: dir, HostID: id, HostName: "h", Ports: Ports{Server: ports[0], Gossip: ports[1]},
		SessionTTL: 10 * time.Second, Logger: slog.New(slog.DiscardHandler),
		Underlay: func(string) (Underlay, error) {
			return Underlay{Iface: "lo", Addr: netip.MustParseAddr("127.0.0.1")}, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopLeftover(k.consulDir()) })
	if want := "unix://" + filepath.Join(dir, "consul", "http.sock"); k.ConsulAddress() != want {
		t.Errorf("it is at %s, want %s", k.ConsulAddress(), want)
	}
	// begin begins a life; the function ends it and says whether another follows.
	begin := func() (context.Context, func() bool) {
		life, cancel := k.Begin(ctx)
		if err := errors.Join(k.FindUnderlay(life), k.Leftovers()); err != nil {
			t.Fatal(err)
		}
		return life, func() bool { defer cancel(); return k.End(life) }
	}

	_, end := begin()
	if _, err := k.Bootstrap(ctx, api.BootstrapRequest{}); err != nil {
		t.Fatal(err)
	}
	if !end() {
		t.Fatal("the place has changed, and no life follows")
	}

	life, end := begin()
	if err := k.CheckIdentity(life); err != nil {
		t.Fatal(err)
	}
	stop, err := k.StartConsul(life)
	if err != nil {
		t.Fatal(err)
	}
	store, err := state.OpenConsul(state.ConsulConfig{Address: k.ConsulAddress()})
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Settle(life, store); err != nil {
		t.Fatal(err)
	}
	if place, err := LoadPlace(dir); err != nil || !place.Settled {
		t.Errorf("%+v, %v", place, err)
	}
	if _, err := store.CompareAndSet(life, state.Prefix+"a", []byte("b"), 0); err != nil {
		t.Error(err)
	}
	k.Serve(store, nil, func() bool { return true })
	if _, err := k.Leave(ctx, api.LeaveRequest{Force: true}); err != nil {
		t.Fatal(err)
	}
	k.Finish(life, store)
	_ = store.Close()
	stop()
	if !end() {
		t.Fatal("the place has changed, and no life follows")
	}

	_, end = begin()
	if _, err := os.Lstat(k.consulDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what Consul had is there: %v", err)
	}
	end()
}
