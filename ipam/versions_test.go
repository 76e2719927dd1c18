package ipam_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/agent/state/statetest"
	"github.com/socketplane/socketplane/ipam"
)

// TestBlockOfALaterRelease: addresses are taken from and given back to a block that has
// members which this release does not know, and those stay in it.
func TestBlockOfALaterRelease(t *testing.T) {
	store := statetest.New()
	p := pool("10.6.0.0/26")
	key := ipam.Prefix(p.Subnet) + "0"
	const more = `"leases":{"10.6.0.9":{"until":7.50}},"none":null`
	if _, err := store.CompareAndSet(t.Context(), key, []byte(`{`+more+`,"version":1,"host":"h1","owners":{"10.6.0.9":"x"}}`), 0); err != nil {
		t.Fatal(err)
	}
	is := func(what, owners string) {
		t.Helper()
		want := `{"version":1,"host":"h1","owners":{` + owners + `},` + more + `}`
		if e, err := store.Get(t.Context(), key); err != nil || string(e.Value) != want {
			t.Fatalf("%s: %s, %v, want %s", what, e.Value, err, want)
		}
	}
	a := ipam.New(store, "h1")
	if got := mustAllocate(t, a, p, "a"); got != addr("10.6.0.2") {
		t.Errorf("got %s", got)
	}
	is("allocated", `"10.6.0.2":"a","10.6.0.9":"x"`)
	if err := ipam.New(store, "h2").AllocateAddr(t.Context(), p, addr("10.6.0.7"), "b"); err != nil { // another host takes from it
		t.Fatal(err)
	}
	is("by another host", `"10.6.0.2":"a","10.6.0.7":"b","10.6.0.9":"x"`)
	if err := a.Transfer(t.Context(), p, addr("10.6.0.7"), "b", "c"); err != nil {
		t.Fatal(err)
	}
	if err := a.Release(t.Context(), p, "a"); err != nil {
		t.Fatal(err)
	}
	is("released", `"10.6.0.7":"c","10.6.0.9":"x"`)

	e, err := store.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	op, some, err := ipam.Evict(e, "c", func(owner string) string { return owner })
	if err != nil || !some || string(op.Value) != `{"version":1,"host":"h1","owners":{"10.6.0.9":"x"},`+more+`}` {
		t.Errorf("evicted: %s, %v, %v", op.Value, some, err)
	}
}

// TestIncompatibleBlock: the addresses of a block of a layout that this release does not
// know are nobody's to give, and the error says what to do.
func TestIncompatibleBlock(t *testing.T) {
	store := statetest.New()
	p := pool("10.6.0.0/26")
	key := ipam.Prefix(p.Subnet) + "0"
	const value = `{"version":2,"hosts":["h1"],"owners":[]}`
	if _, err := store.CompareAndSet(t.Context(), key, []byte(value), 0); err != nil {
		t.Fatal(err)
	}
	a := ipam.New(store, "h1")
	err := a.AllocateAddr(t.Context(), p, addr("10.6.0.9"), "y")
	if !errors.Is(err, ipam.ErrBadBlock) || !strings.Contains(err.Error(), "layout 2") || !strings.Contains(err.Error(), "newer release") {
		t.Errorf("AllocateAddr = %v", err)
	}
	if _, err := a.Allocate(t.Context(), p, "y"); !errors.Is(err, ipam.ErrExhausted) {
		t.Errorf("Allocate = %v, want ErrExhausted", err)
	}
	if _, some, err := ipam.Evict(state.Entry{Key: key, Value: []byte(value)}, "h1", func(owner string) string { return owner }); some || !errors.Is(err, ipam.ErrBadBlock) {
		t.Errorf("Evict = %v, %v", some, err)
	}
	if e, err := store.Get(t.Context(), key); err != nil || string(e.Value) != value {
		t.Errorf("it became %s, %v", e.Value, err)
	}
}
