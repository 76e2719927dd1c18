package agent

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/socketplane/socketplane/agent/agenttest"
	"github.com/socketplane/socketplane/agent/api"
)

// TestPublishAllOrNothing: whatever fails of a Publish that fails, the endpoint has
// the ports that it had, and so have the packet filter, the host and the bridge.
func TestPublishAllOrNothing(t *testing.T) {
	for name, c := range map[string]struct{ had, wanted []api.PortMapping }{
		"first":  {nil, []api.PortMapping{port80, port53, portFree}},
		"others": {[]api.PortMapping{port80, portFree}, []api.PortMapping{port53}},
		"more":   {[]api.PortMapping{port53}, []api.PortMapping{port53, port80}},
		"none":   {[]api.PortMapping{port80, port53}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			for n := 1; ; n++ {
				failed := false
				for _, applied := range []bool{false, true} {
					h := newTestHost(t)
					had, err := h.Attach(t.Context(), publishing("c1", "foo", "/ns/1", c.had...))
					if err != nil {
						t.Fatal(err)
					}
					h.converge()
					before := h.whole()
					h.calls.Reset()
					h.calls.FailAt(n, applied)
					_, err = h.Publish(t.Context(), "c1", c.wanted)
					h.settle()
					h.calls.Reset()
					e, gone := h.Endpoint(t.Context(), "c1")
					if gone != nil {
						t.Fatal(gone)
					}
					if err == nil {
						if len(e.Ports) != len(c.wanted) {
							t.Errorf("published: %v, want %v", e.Ports, c.wanted)
						}
						continue
					}
					failed = true
					if !slices.Equal(e.Ports, had.Ports) {
						t.Errorf("call %d failed (%v), and it publishes %v, want %v", n, err, e.Ports, had.Ports)
					}
					h.converge()
					h.wantWhole(fmt.Sprintf("call %d failed, applied %t", n, applied), before)
				}
				if !failed {
					return
				}
			}
		})
	}
}

// TestPublishIsTakenBackForWhoHungUp: so it is when the caller does not wait.
func TestPublishIsTakenBackForWhoHungUp(t *testing.T) {
	h := newTestHost(t)
	if _, err := h.Attach(t.Context(), publishing("c1", "foo", "/ns/1", port53)); err != nil {
		t.Fatal(err)
	}
	h.converge()
	before := h.whole()
	ctx, hangUp := context.WithCancel(t.Context())
	h.calls.Reset()
	release := h.calls.Block("NAT.Set")
	done := make(chan error, 1)
	go func() {
		_, err := h.Publish(ctx, "c1", []api.PortMapping{port80})
		done <- err
	}()
	eventually(t, "the packet filter is being set", func() bool { return slices.Contains(h.calls.Names(), "NAT.Set") })
	hangUp()
	eventually(t, "it is taken back", func() bool { return len(h.rulesOf("10.6.0.2")) == 1 && !h.publishes("c1", port80) })
	release()
	if err := <-done; err == nil {
		t.Error("no error")
	}
	h.converge()
	h.wantWhole("hung up", before)
}

// publishes says whether the table has an endpoint with a port.
func (h *testHost) publishes(id string, p api.PortMapping) bool {
	l, _ := h.table.get(id)
	return slices.Contains(l.Ports, p)
}

// TestPublishWhoseInterfaceIsGone: an endpoint that ends meanwhile does not come back.
func TestPublishWhoseInterfaceIsGone(t *testing.T) {
	h := newTestHost(t)
	empty := h.whole()
	req := publishing("c1", "foo", "/ns/1", port53)
	req.Source = api.SourceConnect // it ends with its interface
	if _, err := h.Attach(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	h.links.RemoveNetNS("/ns/1")
	h.calls.Fail("Switch.RemovePort", agenttest.ErrFailed)
	if _, err := h.Publish(t.Context(), "c1", []api.PortMapping{port80}); err == nil {
		t.Error("no error")
	}
	h.settle()
	h.calls.Reset()
	h.converge()
	h.settle()
	h.converge()
	h.wantWhole("gone", empty)
}
