package cluster

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/socketplane/socketplane/agent/api"
)

// aMinute is a context for what ends long before.
func aMinute(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// A copy of the disk of a host whose Consul lives is refused before its own Consul
// begins; the machine itself is not, nor one whose double is gone. Under another
// identity it is a new host of the cluster.
func TestRival(t *testing.T) {
	here, there := netip.MustParseAddr("127.0.0.3"), netip.MustParseAddr("127.0.0.2")
	opts := options(t)
	opts.Bind = there
	original, _, err := NewConsul(opts, slog.New(slog.DiscardHandler)).begin()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopLeftover(opts.Dir) })
	if err := newConsulClient(opts.socket()).awaitLeader(aMinute(t)); err != nil {
		t.Fatal(err)
	}

	const other = "44444444-4444-4444-8444-444444444444"
	// copied is a keeper on a disk that was copied from the original's.
	copied := func(t *testing.T, hostID string, at netip.Addr, change func(*Place, *ConsulOptions)) *Keeper {
		t.Helper()
		dir := t.TempDir()
		place, was := Place{Is: api.PlaceBootstrapped, Cluster: opts.Cluster, Server: true, Settled: true}, opts
		was.Dir = filepath.Join(dir, "consul")
		if change != nil {
			change(&place, &was)
		}
		data, _, err := was.encodeConfig()
		if err := errors.Join(err, was.writeConfig(data), place.Save(dir), SaveToken(dir, opts.Token), os.MkdirAll(filepath.Join(was.Dir, "data", "raft"), 0o700)); err != nil {
			t.Fatal(err)
		}
		k, err := NewKeeper(KeeperConfig{
			Dir: dir, HostID: hostID, HostName: "copy", Ports: opts.Ports, SessionTTL: 200 * time.Millisecond, Logger: slog.New(slog.DiscardHandler),
			Underlay: func(string) (Underlay, error) { return Underlay{Iface: "lo", Addr: at}, nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := k.FindUnderlay(t.Context()); err != nil {
			t.Fatal(err)
		}
		return k
	}

	for _, c := range []struct {
		name   string
		at     netip.Addr
		change func(*Place, *ConsulOptions)
		twin   bool
	}{
		{"a copy", here, nil, true},
		{"a copy from before the original moved", here, func(p *Place, was *ConsulOptions) {
			was.Bind, p.Peers = netip.MustParseAddr("127.0.0.4"), []netip.Addr{there, netip.MustParseAddr("127.0.0.5")}
		}, true},
		{"the same address", there, nil, false},
		{"another cluster", here, func(p *Place, _ *ConsulOptions) { p.Cluster = other }, false},
		{"nobody where it was", here, func(_ *Place, was *ConsulOptions) { was.Bind = netip.MustParseAddr("127.0.0.4") }, false},
		{"it joined just now", here, func(p *Place, _ *ConsulOptions) { p.Settled = false }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx := aMinute(t)
			k := copied(t, id, c.at, c.change)
			err := k.CheckIdentity(ctx)
			if errors.Is(err, ErrTwin) != c.twin || err != nil && !c.twin || k.Waiting() != "" && !c.twin {
				t.Fatal(err)
			}
			if c.twin && (!strings.Contains(err.Error(), `host "h-1-example" at 127.0.0.2`) || !strings.Contains(err.Error(), "remove the file host-id")) {
				t.Error(err)
			}
		})
	}

	t.Run("a new identity", func(t *testing.T) {
		ctx := aMinute(t)
		k := copied(t, other, here, nil)
		if err := k.CheckIdentity(ctx); err != nil {
			t.Fatal(err)
		}
		place, err := LoadPlace(k.Dir)
		want := Place{Is: api.PlaceJoined, Cluster: opts.Cluster, Peers: []netip.Addr{there}}
		if diff := cmp.Diff(want, place, cmpopts.EquateComparable(netip.Addr{})); diff != "" || err != nil {
			t.Errorf("%v\n%s", err, diff)
		}
		if _, err := os.Stat(k.consulDir()); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("what Consul knew is there: %v", err)
		}
		if _, err := os.Stat(filepath.Join(k.Dir, dataBefore, "raft")); err != nil {
			t.Errorf("what a server knew is not put aside: %v", err)
		}
		if err := k.CheckIdentity(ctx); err != nil {
			t.Error(err)
		}
	})

	t.Run("the other goes", func(t *testing.T) {
		ctx := aMinute(t)
		k := copied(t, id, here, nil)
		k.SessionTTL = 2 * time.Second
		done := make(chan error, 1)
		began := time.Now() // the other is seen after that, and is known to be gone a TTL after it was seen last
		go func() { done <- k.CheckIdentity(ctx) }()
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for k.Waiting() == "" {
			select {
			case err := <-done:
				t.Fatalf("it did not wait: %v", err)
			case <-tick.C:
			}
		}
		if err := original.proc.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil || k.Waiting() != "" {
			t.Errorf("%v, it waits: %q", err, k.Waiting())
		}
		if took := time.Since(began); took < k.SessionTTL {
			t.Errorf("it was taken for gone after %v", took)
		}
	})
}
