package agent

import (
	"testing"

	"github.com/socketplane/socketplane/agent/api"
)

// With the store emptied, a network is known from its gateway's port, and so is
// whether it lets its containers reach the cloud's metadata.
func TestRecordOfGateway(t *testing.T) {
	h := newTestHost(t)
	for id, allow := range map[string]bool{"shut": false, "open": true} {
		if _, err := h.CreateNetwork(t.Context(), api.CreateNetworkRequest{ID: id, AllowMetadata: allow}); err != nil {
			t.Fatal(err)
		}
		want, err := h.Catalog.Get(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.ensureGateway(t.Context(), want); err != nil {
			t.Fatal(err)
		}
		ports, err := h.sw.Ports(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		want.Version = 0
		found := false
		for _, p := range ports {
			if p.IDs[idNetwork] != id {
				continue
			}
			found = true
			if got, ok := recordOfGateway(p); !ok || got != want || got.AllowMetadata != allow {
				t.Errorf("%q: %+v, %v; want %+v", id, got, ok, want)
			}
		}
		if !found {
			t.Errorf("%q has no gateway", id)
		}
	}
}
