package ipam_test

import (
	"testing"

	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/ipam"
)

// Hosts keep out of each other's blocks while there are unclaimed ones, and a
// release is done even when another process of the host made the allocation.
func TestOwnBlocks(t *testing.T) {
	eachStore(t, func(t *testing.T, store state.Store) {
		p := pool("10.6.0.0/16")
		one, two := ipam.New(store, "h1"), ipam.New(store, "h2")
		mustAllocate(t, one, p, "a")
		if got := mustAllocate(t, two, p, "b"); got != addr("10.6.0.64") {
			t.Errorf("the second host got %s, want 10.6.0.64 of a block of its own", got)
		}
		successor := ipam.New(store, "h1")
		if got := mustAllocate(t, successor, p, "c"); got != addr("10.6.0.3") {
			t.Errorf("the first host's successor got %s, want 10.6.0.3 of its own block", got)
		}
		for _, owner := range []string{"a", "b", "c"} {
			if err := two.Release(t.Context(), p, owner); err != nil {
				t.Fatal(err)
			}
		}
		mustBeEmpty(t, store)
	})
}
