package agent

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/socketplane/socketplane/agent/link"
)

// A restart of the agent takes no route from the kernel, and the next pass removes the
// routes that ended meanwhile.
func TestRestartKeepsKernelRoutes(t *testing.T) {
	h := newTestHost(t)
	h.allowed.Routes = append(h.allowed.Routes, netip.MustParsePrefix("10.96.0.0/11"))
	h.upgraded(peerID)
	h.start()
	h.converge()
	if _, err := h.attachAllowed("router", "10.6.0.10", true, "10.99.0.0/16"); err != nil {
		t.Fatal(err)
	}
	if _, err := h.SetRoutes(t.Context(), "router", []string{"10.99.0.0/16"}); err != nil {
		t.Fatal(err)
	}
	h.publishAs(peerID, peerEndpoint{id: "p", ip: "10.6.0.20", attached: true, allowed: []string{"10.98.0.0/16"}, routes: []string{"10.98.0.0/16"}})
	h.converge() // the switch has the route of the other host
	h.converge() // and the kernel
	const own, others = "10.99.0.0/16 via 10.6.0.10", "10.98.0.0/16 via 10.6.0.20"
	want := func(when string, routes ...string) {
		t.Helper()
		have := map[string]bool{}
		for _, r := range h.links.Gateway(link.GatewayName("foo")).Routes {
			have[fmt.Sprintf("%s via %s", r.Prefix, r.Via)] = true
		}
		for _, r := range routes {
			if !have[r] {
				t.Errorf("%s: the kernel has %v, without %s", when, have, r)
			}
		}
		if len(have) != len(routes) {
			t.Errorf("%s: the kernel has %v, and not only %q", when, have, routes)
		}
	}
	want("running", own, others)

	h.start()
	h.converge()
	want("after the first pass of a new life", own, others)
	h.converge()
	want("after the second", own, others)

	h.publishAs(peerID)
	h.start()
	h.converge()
	select {
	case <-h.kick:
	default:
		t.Error("nothing requests the pass that removes a route that ended while the agent was down")
	}
	h.converge()
	want("after the other host's route ended", own)
}
