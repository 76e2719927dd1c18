package network_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/agent/state/statetest"
	"github.com/socketplane/socketplane/ipam"
)

// TestDeleteDockers: what goes with its Docker network is what was made with it;
// another network of the name stays, unmarked.
func TestDeleteDockers(t *testing.T) {
	eachStore(t, func(t *testing.T, store state.Store) {
		m := network.New(network.Config{Store: store})
		ours := mustCreate(t, m, "ours", "10.6.0.0/16")
		dockers, _, err := m.Create(t.Context(), network.Spec{Name: "dockers", Subnet: prefix("10.7.0.0/16"), ByDocker: true})
		if err != nil {
			t.Fatal(err)
		}
		if err := m.DeleteDockers(t.Context(), "ours", ours.Subnet); !errors.Is(err, network.ErrInUse) {
			t.Errorf("one that nobody made through Docker: %v", err)
		}
		if err := m.DeleteDockers(t.Context(), "dockers", prefix("10.8.0.0/16")); !errors.Is(err, network.ErrInUse) {
			t.Errorf("one with another subnet: %v", err)
		}
		for _, want := range []network.Record{ours, dockers} {
			if got, err := m.Get(t.Context(), want.ID); err != nil || got != want {
				t.Errorf("%v, %v, want %v untouched", got, err, want)
			}
		}
		if err := m.DeleteDockers(t.Context(), "dockers", dockers.Subnet); err != nil {
			t.Error(err)
		}
		if err := m.DeleteDockers(t.Context(), "dockers", dockers.Subnet); !errors.Is(err, network.ErrNotFound) {
			t.Errorf("again: %v", err)
		}
	})
}

// TestUsedElsewhere: what this host has on a network is not elsewhere.
func TestUsedElsewhere(t *testing.T) {
	eachStore(t, func(t *testing.T, store state.Store) {
		m := onHost(store, "h1")
		mustCreate(t, m, "web", "10.6.0.0/16")
		set(t, store, network.EndpointsKey("web", "h1"), `{"version":1,"endpoints":[{}]}`)
		if err := m.UsedElsewhere(t.Context(), "web"); err != nil {
			t.Errorf("by this host alone: %v", err)
		}
		set(t, store, network.EndpointsKey("web", "h2"), `{"version":1,"endpoints":[{},{}]}`)
		if err := m.UsedElsewhere(t.Context(), "web"); !errors.Is(err, network.ErrInUse) || !strings.Contains(err.Error(), "2 endpoints on host h2;") {
			t.Errorf("by another: %v", err)
		}
	})
}

func TestDelete(t *testing.T) {
	eachStore(t, func(t *testing.T, store state.Store) {
		m := network.New(network.Config{Store: store})
		web := mustCreate(t, m, "web", "10.6.0.0/16")
		mustCreate(t, m, "web2", "10.7.0.0/16")
		before := keys(t, store)

		set(t, store, network.EndpointsKey("web2", "host-1"), `{}`) // another network's
		set(t, store, network.EndpointsKey("web", "host-1"), `{"version":1,"endpoints":[{},{}]}`)
		set(t, store, network.EndpointsKey("web", "host-2"), `{"version":1,"endpoints":[{}]}`)
		for _, c := range []struct{ value, text string }{
			{`{"version":1,"endpoints":[{}]}`, `network "web" has 3 endpoints on hosts host-1, host-2; remove them first`},
			{`garbage`, `network "web" has endpoints on hosts host-1, host-2; remove them first`},
		} {
			set(t, store, network.EndpointsKey("web", "host-2"), c.value)
			err := m.Delete(t.Context(), "web")
			if !errors.Is(err, network.ErrInUse) || err.Error() != c.text {
				t.Errorf("Delete = %v, want %q", err, c.text)
			}
		}
		if got, err := m.Get(t.Context(), "web"); err != nil || got != web {
			t.Errorf("after a refused Delete: %v, %v, want %v untouched", got, err, web)
		}

		if err := store.Txn(t.Context(), []state.Op{{Kind: state.OpDeleteTree, Key: network.EndpointsPrefix}}); err != nil {
			t.Fatal(err)
		}
		pool := ipam.Pool{Subnet: web.Subnet, Gateway: web.Gateway}
		if _, err := ipam.New(store, "host-1").Allocate(t.Context(), pool, "left over"); err != nil {
			t.Fatal(err)
		}
		if err := m.Delete(t.Context(), "web"); err != nil {
			t.Fatal(err)
		}
		for _, call := range []func() error{
			func() error { return m.Delete(t.Context(), "web") },
			func() error { _, err := m.Get(t.Context(), "web"); return err },
		} {
			if err := call(); !errors.Is(err, network.ErrNotFound) {
				t.Errorf("after Delete: %v, want ErrNotFound", err)
			}
		}
		if err := m.Delete(t.Context(), "web"); err == nil || strings.Contains(err.Error(), "create") {
			t.Errorf("who deletes is told to create: %v", err)
		}
		mustCreate(t, m, "web", "10.6.0.0/16")
		if diff := cmp.Diff(before, keys(t, store)); diff != "" {
			t.Errorf("left behind: %s", diff)
		}
	})
}

// A deleter may die after it has marked the record.
func TestDeletionLeftHalfDone(t *testing.T) {
	start := func(t *testing.T) (state.Store, *network.Manager) {
		store := statetest.New()
		m := network.New(network.Config{Store: store})
		mustCreate(t, m, "web", "10.6.0.0/16")
		set(t, store, network.Key("web"), `{"version":1,"id":"web","subnet":"10.6.0.0/16","gateway":"10.6.0.1","vlan":1,"vni":10001,"deleting":true}`)
		return store, m
	}
	t.Run("hidden", func(t *testing.T) {
		_, m := start(t)
		if _, err := m.Get(t.Context(), "web"); !errors.Is(err, network.ErrNotFound) {
			t.Errorf("Get = %v, want ErrNotFound", err)
		}
		if all, _, err := m.List(t.Context()); err != nil || len(all) != 0 {
			t.Errorf("List = %v, %v, want none", all, err)
		}
	})
	t.Run("deleted", func(t *testing.T) {
		store, m := start(t)
		if err := m.Delete(t.Context(), "web"); err != nil {
			t.Fatal(err)
		}
		if left := keys(t, store); len(left) != 0 {
			t.Errorf("left behind: %v", left)
		}
	})
	t.Run("created anew", func(t *testing.T) {
		_, m := start(t)
		rec, created, err := m.Create(t.Context(), network.Spec{Name: "web", Subnet: prefix("10.7.0.0/16")})
		if err != nil || !created || rec.Subnet != prefix("10.7.0.0/16") || rec.Deleting {
			t.Errorf("Create = %v, %v, %v", rec, created, err)
		}
	})
	t.Run("in use", func(t *testing.T) {
		store, m := start(t)
		set(t, store, network.EndpointsKey("web", "host-1"), `{"version":1,"endpoints":[{}]}`)
		rec, created, err := m.Create(t.Context(), network.Spec{Name: "web", Subnet: noSubnet})
		if err != nil || created || rec.Deleting {
			t.Errorf("Create = %v, %v, %v, want the old one back", rec, created, err)
		}
	})
	t.Run("another's VLAN key", func(t *testing.T) {
		store, m := start(t)
		set(t, store, network.VLANKey(1), `{"version":1,"network":"other"}`)
		if err := m.Delete(t.Context(), "web"); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{network.VLANKey(1)}, keys(t, store)); diff != "" {
			t.Error(diff)
		}
	})
}

// failing refuses transactions, and ends the caller's context with the first.
type failing struct {
	state.Store
	giveUp context.CancelFunc
}

func (f failing) Txn(context.Context, []state.Op) error {
	f.giveUp()
	return fmt.Errorf("transaction: %w", state.ErrUnavailable)
}

func TestDeleteGivenUp(t *testing.T) {
	store := statetest.New()
	m := network.New(network.Config{Store: store})
	mustCreate(t, m, "web", "10.6.0.0/16")
	ctx, cancel := context.WithCancel(t.Context())
	err := network.New(network.Config{Store: failing{store, cancel}}).Delete(ctx, "web")
	if !errors.Is(err, state.ErrUnavailable) {
		t.Fatalf("Delete = %v", err)
	}
	if rec, err := m.Get(t.Context(), "web"); err != nil || rec.Deleting {
		t.Errorf("after that: %v, %v, want the network back", rec, err)
	}
}
