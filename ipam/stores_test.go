package ipam_test

import (
	"path/filepath"
	"testing"

	"github.com/socketplane/socketplane/agent/state"
)

func openEmbedded(tb testing.TB) state.Store {
	tb.Helper()
	return opened(tb)(state.OpenEmbedded(filepath.Join(tb.TempDir(), "state.db")))
}

func openConsul(tb testing.TB, address string) state.Store {
	tb.Helper()
	return opened(tb)(state.OpenConsul(state.ConsulConfig{Address: address}))
}

// opened ends the test when a store could not be opened, and closes it at the end.
func opened(tb testing.TB) func(state.Store, error) state.Store {
	return func(store state.Store, err error) state.Store {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() {
			if err := store.Close(); err != nil {
				tb.Error(err)
			}
		})
		return store
	}
}
