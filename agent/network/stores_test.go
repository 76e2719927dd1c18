package network_test

import (
	"path/filepath"
	"testing"

	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/agent/state/consultest"
	"github.com/socketplane/socketplane/agent/state/statetest"
)

// eachStore runs a test on every store that needs no server.
func eachStore(t *testing.T, test func(t *testing.T, store state.Store)) {
	t.Run("memory", func(t *testing.T) { test(t, statetest.New()) })
	t.Run("embedded", func(t *testing.T) { test(t, openEmbedded(t)) })
}

// everyStore is eachStore and a real Consul: for what depends on who is faster.
func everyStore(t *testing.T, test func(t *testing.T, store state.Store)) {
	eachStore(t, test)
	t.Run("consul", func(t *testing.T) { test(t, openConsul(t)) })
}

// keys lists every key below ours but the generation.
func keys(t *testing.T, store state.Store) []string {
	t.Helper()
	entries, err := store.List(t.Context(), state.Prefix)
	if err != nil {
		t.Fatal(err)
	}
	found := []string{}
	for _, e := range entries {
		if e.Key != network.GenerationKey {
			found = append(found, e.Key)
		}
	}
	return found
}

// set writes a value whatever is there.
func set(t *testing.T, store state.Store, key, value string) {
	t.Helper()
	e, _ := store.Get(t.Context(), key)
	if _, err := store.CompareAndSet(t.Context(), key, []byte(value), e.Version); err != nil {
		t.Fatal(err)
	}
}

func openEmbedded(t *testing.T) state.Store {
	t.Helper()
	return opened(t)(state.OpenEmbedded(filepath.Join(t.TempDir(), "state.db")))
}

func openConsul(t *testing.T) state.Store {
	t.Helper()
	return opened(t)(state.OpenConsul(state.ConsulConfig{Address: consultest.Start(t)}))
}

// opened ends the test when a store could not be opened, and closes it at the end.
func opened(t *testing.T) func(state.Store, error) state.Store {
	return func(store state.Store, err error) state.Store {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := store.Close(); err != nil {
				t.Error(err)
			}
		})
		return store
	}
}
