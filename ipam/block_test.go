package ipam_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/agent/state/statetest"
	"github.com/socketplane/socketplane/ipam"
)

func TestBadBlocks(t *testing.T) {
	for name, value := range map[string]string{
		"not JSON":         `garbage`,
		"empty":            ``,
		"other version":    `{"version":2,"host":"h1","owners":{}}`,
		"no host":          `{"version":1,"owners":{}}`,
		"trailing":         `{"version":1,"host":"h1","owners":{}} {}`,
		"outside block":    `{"version":1,"host":"h1","owners":{"10.6.0.64":"a"}}`,
		"outside subnet":   `{"version":1,"host":"h1","owners":{"10.7.0.2":"a"}}`,
		"twice":            `{"version":1,"host":"h1","owners":{"10.6.0.2":"a","10.6.0.2":"b"}}`,
		"mapped":           `{"version":1,"host":"h1","owners":{"::ffff:10.6.0.2":"a"}}`,
		"not an address":   `{"version":1,"host":"h1","owners":{"x":"a"}}`,
		"no owner":         `{"version":1,"host":"h1","owners":{"10.6.0.2":""}}`,
		"owner too long":   `{"version":1,"host":"h1","owners":{"10.6.0.2":"` + strings.Repeat("x", 300) + `"}}`,
		"owner no string":  `{"version":1,"host":"h1","owners":{"10.6.0.2":7}}`,
		"owners no object": `{"version":1,"host":"h1","owners":["10.6.0.2"]}`,
	} {
		t.Run(name, func(t *testing.T) {
			store := statetest.New()
			p := pool("10.6.0.0/25") // two blocks
			key := ipam.Prefix(p.Subnet) + "0"
			if _, err := store.CompareAndSet(t.Context(), key, []byte(value), 0); err != nil {
				t.Fatal(err)
			}
			a := ipam.New(store, "h1")
			if got := mustAllocate(t, a, p, "x"); got != addr("10.6.0.64") {
				t.Errorf("got %s, want 10.6.0.64 of the block that is sound", got)
			}
			err := a.AllocateAddr(t.Context(), p, addr("10.6.0.9"), "y")
			if !errors.Is(err, ipam.ErrBadBlock) || !strings.Contains(err.Error(), key) {
				t.Errorf("AllocateAddr = %v, want ErrBadBlock that names %s", err, key)
			}
			all, err := a.List(t.Context(), p.Subnet)
			if !errors.Is(err, ipam.ErrBadBlock) || !strings.Contains(err.Error(), key) || len(all) != 1 {
				t.Errorf("List = %v, %v, want one address and ErrBadBlock that names %s", all, err, key)
			}
			if err := a.Release(t.Context(), p, "x"); err != nil {
				t.Error(err)
			}
			if e, err := store.Get(t.Context(), key); err != nil || string(e.Value) != value {
				t.Errorf("the bad value became %q, %v", e.Value, err)
			}
		})
	}
}

func TestBadKeys(t *testing.T) {
	store := statetest.New()
	p := pool("10.6.0.0/24")
	var ops []state.Op
	for _, name := range []string{"x", "4", "-1", "01", "0/1", "99999999999999999999"} {
		ops = append(ops, state.Op{Key: ipam.Prefix(p.Subnet) + name, Value: []byte(`{"version":1,"host":"h","owners":{}}`)})
	}
	if err := store.Txn(t.Context(), ops); err != nil {
		t.Fatal(err)
	}
	a := ipam.New(store, "h1")
	if got := mustAllocate(t, a, p, "x"); got != addr("10.6.0.2") {
		t.Errorf("got %s", got)
	}
	_, err := a.List(t.Context(), p.Subnet)
	if got := strings.Count(err.Error(), "cannot be decoded"); got != len(ops) {
		t.Errorf("List names %d bad keys of %d: %v", got, len(ops), err)
	}
}
