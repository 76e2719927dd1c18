package agent

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/socketplane/socketplane/agent/agenttest"
	"github.com/socketplane/socketplane/agent/cluster"
	"github.com/socketplane/socketplane/agent/link"
	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/ovs"
)

// alive makes the peers hosts of this release whose sessions last.
func (h *testHost) alive(peers ...string) {
	h.t.Helper()
	for i, id := range peers {
		h.putHeld(cluster.HostsPrefix+id, fmt.Sprintf(
			`{"version":1,"id":%q,"name":"h%d","vtep":"192.0.2.%[2]d","underlay_mtu":1500,"routes":null,"agent":"v2 %s","datapath":"netdev"}`,
			id, i+2, strings.Join(cluster.Capabilities(), " ")))
	}
	h.converge()
}

func (h *testHost) allowRoutes(list ...string) {
	h.t.Helper()
	for _, p := range list {
		h.allowed.Routes = append(h.allowed.Routes, netip.MustParsePrefix(p))
	}
	h.start()
	h.converge()
}

// wantRoute checks the route of foo in the switch and in the kernel. Only "" means none.
func (h *testHost) wantRoute(when, want string) {
	h.t.Helper()
	var kernel []string
	for _, r := range h.links.Gateway(link.GatewayName("foo")).Routes {
		kernel = append(kernel, fmt.Sprintf("%s via %s", r.Prefix, r.Via))
	}
	if sw := h.routesNow(); sw != want || strings.Join(kernel, "; ") != want {
		h.t.Errorf("%s: switch %q, kernel %q, want %q", when, sw, kernel, want)
	}
}

// A route stays as long as its endpoint when somebody empties its host's list. Another
// host may use it meanwhile, but does not keep it from an endpoint that comes back.
func TestRouteOfVanishedEndpoint(t *testing.T) {
	h := newTestHost(t)
	h.allowRoutes("10.96.0.0/11")
	h.alive(peerID, thirdID)
	now := time.Now()
	h.view.now = func() time.Time { return now }
	h.mustAttach("plain", "foo", "/ns/plain")
	p := peerEndpoint{id: "p", ip: "10.6.0.20", attached: true, allowed: []string{"10.96.0.0/16"}, routes: []string{"10.96.0.0/16"}}
	q := peerEndpoint{id: "q", ip: "10.6.0.30", attached: true, allowed: []string{"10.96.0.0/16"}, routes: []string{"10.96.0.0/16"}}
	const viaP, viaQ = "10.96.0.0/16 via 10.6.0.20", "10.96.0.0/16 via 10.6.0.30"
	converge := func() { h.t.Helper(); h.converge(); h.converge() } // the second sets the kernel's
	h.publishAs(peerID, p)
	converge()
	h.wantRoute("at first", viaP)

	h.put(network.EndpointsKey("foo", peerID), `{"version":1,"endpoints":[]}`)
	converge()
	h.wantRoute("emptied", viaP)
	h.publishAs(thirdID, q)
	converge()
	h.wantRoute("claimed by another", viaQ)
	h.publishAs(peerID, p)
	converge()
	h.wantRoute("put right", viaP)

	// Of an endpoint that does not come back, another keeps it.
	h.publishAs(peerID)
	converge()
	h.wantRoute("moved", viaQ)
	now = now.Add(2 * missTime)
	converge()
	h.publishAs(peerID, p)
	converge()
	h.wantRoute("back too late", viaQ)

	h.publishAs(thirdID)
	h.publishAs(peerID)
	now = now.Add(2 * missTime)
	h.watch()
	now = now.Add(2 * missTime)
	converge()
	h.wantRoute("both gone", "")

	// Who did not have it does not get it by leaving and coming back.
	h.publishAs(peerID, p)
	converge()
	h.publishAs(thirdID, q)
	converge()
	h.publishAs(thirdID)
	converge()
	h.publishAs(thirdID, q)
	converge()
	h.wantRoute("after a trick", viaP)
}

// The kernel has no route that the switch does not have.
func TestKernelRoutesFollowSwitch(t *testing.T) {
	h := newTestHost(t)
	h.allowRoutes("10.96.0.0/11", "192.0.2.0/24")
	h.upgraded(peerID, thirdID)
	h.mustAttach("plain", "foo", "/ns/plain") // 10.6.0.2
	h.publishAs(thirdID, peerEndpoint{id: "q", ip: "10.6.0.30", attached: true})
	h.converge()
	for name, p := range map[string]peerEndpoint{
		"the address is here":                 {ip: "10.6.0.2", allowed: []string{"10.96.0.0/16"}, routes: []string{"10.96.0.0/16"}},
		"the address is another's":            {ip: "10.6.0.30", allowed: []string{"10.96.0.0/16"}, routes: []string{"10.96.0.0/16"}},
		"the permission covers a host":        {ip: "10.6.0.20", allowed: []string{"192.0.2.0/24"}, routes: []string{"192.0.2.128/25"}},
		"the permission covers the subnet":    {ip: "10.6.0.20", allowed: []string{"10.0.0.0/8"}, routes: []string{"10.96.0.0/16"}},
		"the permission and the route are ok": {ip: "10.6.0.20", allowed: []string{"10.96.0.0/15"}, routes: []string{"10.96.0.0/16"}},
	} {
		p.id, p.attached = "p", true
		h.publishAs(peerID, p)
		h.converge()
		h.converge()
		if problems := h.view.problems(); len(problems) > 0 {
			t.Fatalf("%s: %q", name, problems)
		}
		routed := slices.ContainsFunc(h.sw.Forwarding().Flows(), func(f ovs.Flow) bool { return strings.Contains(f.Match, "nw_dst="+p.routes[0]) })
		if got := len(h.kernelRoutes("foo")) > 0; got != routed || routed != strings.HasSuffix(name, "ok") {
			t.Errorf("%s: in the kernel %v, in the switch %t", name, h.kernelRoutes("foo"), routed)
		}
	}
}

// A change of routes that fails leaves what else is known about the endpoint.
func TestSetRoutesFails(t *testing.T) {
	h := newTestHost(t)
	h.alive(peerID)
	h.allowRoutes("10.96.0.0/11")
	if _, err := h.attachAllowed("router", "10.6.0.10", true, "10.99.0.0/16"); err != nil {
		t.Fatal(err)
	}
	before, _ := h.table.get("router")
	if err := h.sw.RemovePort(t.Context(), before.Port); err != nil { // it gets another number
		t.Fatal(err)
	}
	h.calls.Fail("Switch.SetForwarding", agenttest.ErrFailed)
	if _, err := h.SetRoutes(t.Context(), "router", []string{"10.99.0.0/16"}); err == nil {
		t.Fatal("no error")
	}
	ports, err := h.sw.Ports(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	after, _ := h.table.get("router")
	i := slices.IndexFunc(ports, func(p ovs.Port) bool { return p.Name == after.Port })
	if i < 0 || ports[i].OFPort == before.OFPort || after.OFPort != ports[i].OFPort || len(after.Routes) != 0 {
		t.Errorf("before %d, now %d with routes %v; the switch has %+v", before.OFPort, after.OFPort, after.Routes, ports)
	}
	if e, err := h.store.Get(t.Context(), network.EndpointsKey("foo", selfID)); err != nil || strings.Contains(string(e.Value), "routes") {
		t.Errorf("published: %s, %v", e.Value, err)
	}
}
