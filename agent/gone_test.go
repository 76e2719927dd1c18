package agent

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/socketplane/socketplane/agent/api"
)

// TestGone: an endpoint that lost its interface with its namespace is found
// without anybody saying so, long before the slow timer.
func TestGone(t *testing.T) {
	h := newTestHost(t)
	empty := h.whole()
	running, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- h.Run(running) }()
	if _, err := h.Attach(t.Context(), api.AttachRequest{ID: "c1", Network: "foo", NetNS: "/ns/1", Source: api.SourceConnect}); err != nil {
		t.Fatal(err)
	}
	h.mustAttach("c2", "foo", "/ns/2")
	h.links.RemoveNetNS("/ns/1")
	h.links.RemoveNetNS("/ns/2")
	eventually(t, "what was connected is released", func() bool {
		_, err := h.Endpoint(t.Context(), "c1")
		return api.CodeOf(err) == api.CodeNotFound
	})
	eventually(t, "what is Docker's holds its address", func() bool {
		e, err := h.Endpoint(t.Context(), "c2")
		return err == nil && !e.Attached
	})
	if err := h.Release(t.Context(), "c2"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the default network", func() bool { _, err := h.Network(t.Context(), "default"); return err == nil })
	// Nothing is left of either while the agent still runs: one that is stopped in the
	// middle of a pass leaves the rest to its next life.
	eventually(t, "nothing is left of either", func() bool {
		left := slices.DeleteFunc(h.whole(), func(line string) bool {
			return strings.HasPrefix(line, "socketplane/v1/networks/default ") || strings.HasPrefix(line, "socketplane/v1/vlans/3 ")
		})
		return slices.Equal(left, empty)
	})
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	h.settle()
	h.remove("socketplane/v1/networks/default")
	h.remove("socketplane/v1/vlans/3")
	h.wantWhole("in the end", empty)
}
