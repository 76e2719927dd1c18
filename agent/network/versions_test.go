package network_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/agent/state/statetest"
	"github.com/socketplane/socketplane/ipam"
)

// later gives a value as a later release may write it.
func later(value string) string { return strings.Replace(value, `{`, `{"later":{"a":[1.50]},`, 1) }

const laterMember = `"later":{"a":[1.50]}`

// TestRecordOfALaterRelease: a network whose record has members that this release
// does not know is used as any other, and its record loses none of them: neither to
// a deletion that is refused after the record was marked, nor to one that is given up.
func TestRecordOfALaterRelease(t *testing.T) {
	store := statetest.New()
	key := network.Key("web")
	set(t, store, key, later(`{"version":1,"id":"web","subnet":"10.6.0.0/16","gateway":"10.6.0.1","vlan":7,"vni":10007}`))
	set(t, store, network.VLANKey(7), later(`{"version":1,"network":"web"}`))
	set(t, store, network.GenerationKey, later(`{"version":1,"generation":41}`))
	set(t, store, network.EndpointsKey("web", "host-1"), `{"version":1,"endpoints":[{}]}`)
	m := network.New(network.Config{Store: store})
	if rec, created, err := m.Create(t.Context(), network.Spec{Name: "web"}); err != nil || created || rec.VLAN != 7 {
		t.Fatalf("%+v, %v, %v", rec, created, err)
	}
	has := func(key string, parts ...string) {
		t.Helper()
		e, err := store.Get(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range append(parts, laterMember) {
			if !strings.Contains(string(e.Value), part) {
				t.Errorf("%s became %s, which lacks %s", key, e.Value, part)
			}
		}
	}
	before, _ := store.Get(t.Context(), key)
	if err := m.Delete(t.Context(), "web"); !errors.Is(err, network.ErrInUse) {
		t.Fatalf("Delete = %v, want ErrInUse", err)
	}
	after, _ := store.Get(t.Context(), key)
	has(key, `"vlan":7`)
	if strings.Contains(string(after.Value), "deleting") || after.Version == before.Version && string(after.Value) != string(before.Value) {
		t.Errorf("the record became %s", after.Value)
	}
	mustCreate(t, m, "other", "10.9.0.0/16")
	has(network.GenerationKey, `"generation":42`)

	if err := store.Txn(t.Context(), []state.Op{{Kind: state.OpDeleteTree, Key: network.EndpointsPrefix}}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := network.New(network.Config{Store: failing{store, cancel}}).Delete(ctx, "web"); err == nil {
		t.Fatal("the deletion did not fail")
	}
	has(key)
	if err := m.Delete(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
	for _, gone := range []string{key, network.VLANKey(7)} {
		if e, err := store.Get(t.Context(), gone); !errors.Is(err, state.ErrNotFound) {
			t.Errorf("%s is left behind: %s, %v", gone, e.Value, err)
		}
	}
}

// TestMarkedByALaterRelease: a deletion that another release has begun is continued
// with the record as that one wrote it.
func TestMarkedByALaterRelease(t *testing.T) {
	store := statetest.New()
	set(t, store, network.Key("web"), later(`{"version":1,"id":"web","subnet":"10.6.0.0/16","gateway":"10.6.0.1","vlan":1,"vni":10001,"deleting":true}`))
	set(t, store, network.EndpointsKey("web", "host-1"), `{"version":1,"endpoints":[{}]}`)
	if err := network.New(network.Config{Store: store}).Delete(t.Context(), "web"); !errors.Is(err, network.ErrInUse) {
		t.Fatalf("Delete = %v, want ErrInUse", err)
	}
	if e, err := store.Get(t.Context(), network.Key("web")); err != nil || !strings.Contains(string(e.Value), laterMember) {
		t.Errorf("the record became %s, %v", e.Value, err)
	}
}

// TestBesideTheRecordOfALaterRelease: options of Docker's and reserved subnets with
// members that this release does not know count.
func TestBesideTheRecordOfALaterRelease(t *testing.T) {
	store := statetest.New()
	m := network.New(network.Config{Store: store, Host: "h1", Alive: func(context.Context) (map[string]bool, error) {
		return map[string]bool{"h2": true}, nil
	}})
	rec := mustCreate(t, m, "web", "10.6.0.0/16")
	set(t, store, network.DockersPrefix+"web", later(`{"version":1,"subnet":"10.6.0.0/16","labels":{"a":"b"}}`))
	if spec, err := m.DockerSpec(t.Context(), "web", rec.Subnet); err != nil || spec.Labels["a"] != "b" {
		t.Errorf("%+v, %v", spec, err)
	}
	set(t, store, network.ReservationsPrefix+"10.7.0.0-16", later(`{"version":1,"subnet":"10.7.0.0/16","host":"h2","life":"x"}`))
	if _, err := m.Reserve(t.Context(), netip.MustParsePrefix("10.7.0.0/16")); !errors.Is(err, network.ErrOverlap) {
		t.Errorf("a subnet that another host has reserved was given: %v", err)
	}
	// What a newer release has reserved is not given. What is spoilt keeps only its own key.
	for _, value := range []string{`{"version":2,"subnet":7}`, `garbage`} {
		set(t, store, network.ReservationsPrefix+"10.8.0.0-16", value)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		if _, err := m.Reserve(ctx, netip.MustParsePrefix("10.8.0.0/16")); !errors.Is(err, network.ErrOverlap) {
			t.Errorf("beside %s: %v", value, err)
		}
		if _, _, err := m.Create(ctx, network.Spec{Name: "eight", Subnet: prefix("10.8.0.0/24")}); errors.Is(err, network.ErrOverlap) != (value != `garbage`) {
			t.Errorf("beside %s: %v", value, err)
		}
		if e, err := store.Get(t.Context(), network.ReservationsPrefix+"10.8.0.0-16"); err != nil || string(e.Value) != value {
			t.Errorf("%s became %s, %v", value, e.Value, err)
		}
		cancel()
	}
}

// TestIncompatibleRecord: a record of a layout that this release does not know is left
// alone, is named with the remedy, and keeps its subnet.
func TestIncompatibleRecord(t *testing.T) {
	store := statetest.New()
	const value = `{"version":2,"id":"web","subnet":"10.6.0.0/16","gateways":["10.6.0.1"],"vlan":"x"}`
	set(t, store, network.Key("web"), value)
	m := network.New(network.Config{Store: store})
	for _, err := range []error{
		m.Delete(t.Context(), "web"),
		func() error { _, err := m.Get(t.Context(), "web"); return err }(),
		func() error { _, _, err := m.Create(t.Context(), network.Spec{Name: "web"}); return err }(),
	} {
		if !errors.Is(err, network.ErrBadRecord) || !strings.Contains(err.Error(), "layout 2") || !strings.Contains(err.Error(), "newer release") {
			t.Errorf("%v", err)
		}
	}
	if e, err := store.Get(t.Context(), network.Key("web")); err != nil || string(e.Value) != value {
		t.Errorf("it became %s, %v", e.Value, err)
	}
}

// TestBlocksOfALaterRelease: what a deletion removes with a network are also blocks of
// addresses that another release wrote.
func TestBlocksOfALaterRelease(t *testing.T) {
	store := statetest.New()
	m := network.New(network.Config{Store: store})
	rec := mustCreate(t, m, "web", "10.6.0.0/16")
	set(t, store, ipam.Prefix(rec.Subnet)+"0", later(`{"version":1,"host":"h","owners":{"10.6.0.2":"h/a"}}`))
	if err := m.Delete(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
	if left, err := store.List(t.Context(), ipam.BlocksPrefix); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}
