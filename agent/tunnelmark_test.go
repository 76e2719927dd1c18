package agent

import (
	"testing"

	"github.com/socketplane/socketplane/agent/agenttest"
)

// The firewall tells the kernel's tunnels from users by a mark. It does so only once the
// tunnels send with it, which an agent from before an upgrade did not make them.
func TestFirewallWaitsForMarkedTunnels(t *testing.T) {
	h := newTestHost(t)
	h.sw.SetDatapath("system")
	h.start()
	h.calls.Fail("Switch.SetTunnels", agenttest.ErrFailed)
	h.watch()
	for range 2 {
		if err := h.Agent.converge(t.Context(), true); err == nil {
			t.Fatal("the tunnels did not fail")
		}
		if r := h.firewall.Rules(); r.Marked || r.Hosts == nil || r.Userspace {
			t.Errorf("before the tunnels send with the mark: %+v", r)
		}
	}
	h.calls.Fail("Switch.SetTunnels", nil)
	h.converge()
	if r := h.firewall.Rules(); !r.Marked {
		t.Errorf("as soon as they send with it: %+v", r)
	}
	h.calls.Fail("Switch.SetTunnels", agenttest.ErrFailed)
	_ = h.Agent.converge(t.Context(), true)
	if r := h.firewall.Rules(); !r.Marked {
		t.Errorf("while the switch is away later: %+v", r)
	}
	h.calls.Fail("Switch.SetTunnels", nil)
	h.sw.SetDatapath("netdev")
	h.converge()
	h.sw.SetDatapath("system")
	h.calls.Fail("Switch.SetTunnels", agenttest.ErrFailed)
	_ = h.Agent.converge(t.Context(), true)
	if r := h.firewall.Rules(); r.Marked {
		t.Errorf("after the tunnels were in user space: %+v", r)
	}
}
