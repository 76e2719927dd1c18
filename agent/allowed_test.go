package agent

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/cluster"
	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/ovs"
)

// upgraded makes the peers hosts of this release.
func (h *testHost) upgraded(peers ...string) {
	h.t.Helper()
	for i, id := range peers {
		h.put(cluster.HostsPrefix+id, fmt.Sprintf(
			`{"version":1,"id":%q,"name":"h%d","vtep":"192.0.2.%[2]d","underlay_mtu":1500,"routes":null,"agent":"v2 %s","datapath":"netdev"}`,
			id, i+2, strings.Join(cluster.Capabilities(), " ")))
	}
	h.converge()
}

// A host that does not know of allowed addresses would not lead to them.
func TestAllowAddressNeedsAllHosts(t *testing.T) {
	h := newTestHost(t)
	_, err := h.attachAllowed("a", "10.6.0.10", false, "10.6.0.200")
	wantCode(t, err, api.CodeConflict, "upgrade it on: h2")
	h.upgraded(peerID)
	if _, err := h.attachAllowed("a", "10.6.0.10", false, "10.6.0.200"); err != nil {
		t.Error(err)
	}
	h.put(cluster.HostsPrefix+peerID, "nonsense")
	h.watch()
	_, err = h.attachAllowed("b", "10.6.0.11", false, "10.6.0.200")
	wantCode(t, err, api.CodeUnavailable, "agent status")
}

func (h *testHost) attachAllowed(id, ip string, forwarding bool, allow ...string) (api.Endpoint, error) {
	h.t.Helper()
	return h.Attach(h.t.Context(), api.AttachRequest{
		ID: id, Network: "foo", IP: ip, NetNS: "/ns/" + id, Source: api.SourceDocker, AllowAddresses: allow, Forwarding: forwarding,
	})
}

// peerEndpoint is one of h2's, as its list says.
type peerEndpoint struct {
	id, ip   string
	allowed  []string
	routes   []string
	attached bool
}

// publishAs writes another host's list of endpoints on foo.
func (h *testHost) publishAs(hostID string, list ...peerEndpoint) {
	h.t.Helper()
	eps := []endpoint{}
	for _, p := range list {
		ip := netip.MustParseAddr(p.ip)
		ep := endpoint{ID: p.id, IP: ip, MAC: macOf(ip), IfName: "eth0", Source: api.SourceDocker, Attached: p.attached}
		for _, a := range p.allowed {
			ep.Allowed = append(ep.Allowed, netip.MustParsePrefix(a))
		}
		for _, r := range p.routes {
			ep.Routes = append(ep.Routes, netip.MustParsePrefix(r))
		}
		eps = append(eps, ep)
	}
	value, err := json.Marshal(endpointList{Version: listVersion, Endpoints: eps})
	if err != nil {
		h.t.Fatal(err)
	}
	h.put(network.EndpointsKey("foo", hostID), string(value))
}

func (h *testHost) segment() ovs.Segment {
	h.t.Helper()
	f := h.sw.Forwarding()
	if len(f.Segments) != 1 {
		h.t.Fatalf("%d networks are programmed", len(f.Segments))
	}
	return f.Segments[0]
}

func (h *testHost) allowedHere(ip string) string {
	h.t.Helper()
	for _, l := range h.segment().Local {
		if l.IP.String() == ip {
			return strings.Join(api.AllowedText(l.Allowed), " ")
		}
	}
	return "no endpoint " + ip
}

func TestAllowAddress(t *testing.T) {
	h := newTestHost(t)
	h.upgraded(peerID)
	e, err := h.attachAllowed("a", "10.6.0.10", false, "10.6.0.200", "10.6.1.0/24")
	if err != nil || strings.Join(api.AllowedText(e.AllowAddresses), " ") != "10.6.0.200 10.6.1.0/24" {
		t.Fatalf("%+v, %v", e, err)
	}
	if _, err := h.attachAllowed("b", "10.6.0.11", false, "10.6.0.200"); err != nil { // the same, to move between them
		t.Fatal(err)
	}
	if got := h.allowedHere("10.6.0.10") + "; " + h.allowedHere("10.6.0.11"); got != "10.6.0.200 10.6.1.0/24; 10.6.0.200" {
		t.Errorf("programmed: %s", got)
	}
	// Repeated, and as a start after a stop asks: without saying it again.
	if _, err := h.attachAllowed("a", "10.6.0.10", false, "10.6.1.0/24", "10.6.0.200"); err != nil {
		t.Error(err)
	}
	if err := h.Detach(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if e := h.mustAttach("a", "", "/ns/a2"); len(e.AllowAddresses) != 2 {
		t.Errorf("started again: %+v", e)
	}
	_, err = h.attachAllowed("a", "10.6.0.10", false, "10.6.0.201")
	wantCode(t, err, api.CodeConflict, "other addresses already")
	// A new life of the agent knows it from the port, and another from the store.
	h.settle()
	if err := h.Detach(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	h.settle()
	h.start()
	h.converge()
	if got := h.allowedHere("10.6.0.10"); got != "10.6.0.200 10.6.1.0/24" {
		t.Errorf("after a restart: %s", got)
	}
	if e := h.mustAttach("b", "", "/ns/b2"); strings.Join(api.AllowedText(e.AllowAddresses), " ") != "10.6.0.200" {
		t.Errorf("from the store: %+v", e)
	}
}

func TestAllowAddressRefused(t *testing.T) {
	h := newTestHost(t)
	h.addrs = []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("172.17.0.1/16")}
	h.start()
	h.upgraded(peerID)
	h.mustAttach("other", "foo", "/ns/other") // 10.6.0.2
	if _, err := h.Reserve(t.Context(), api.ReserveRequest{ID: "stopped", Network: "foo", IP: "10.6.0.30", Source: api.SourceDocker}); err != nil {
		t.Fatal(err)
	}
	h.publishAs(peerID, peerEndpoint{id: "there", ip: "10.6.0.20", attached: true}, peerEndpoint{id: "held", ip: "10.6.0.21"})
	h.converge()
	before := h.whole()
	for _, c := range []struct {
		allow      string
		forwarding bool
		code       api.Code
		say        string
	}{
		{"10.6.0.1", false, api.CodeConflict, "gateway"},
		{"10.6.0.0/30", false, api.CodeConflict, "gateway"},
		{"10.6.0.0/16", false, api.CodeConflict, "gateway"},
		{"10.0.0.0/8", true, api.CodeConflict, "subnet"},
		{"10.6.0.0", false, api.CodeConflict, "network address"},
		{"10.6.255.255", false, api.CodeConflict, "broadcast"},
		{"10.6.255.0/24", false, api.CodeConflict, "broadcast"},
		{"10.6.0.2", false, api.CodeConflict, "other"},
		{"10.6.0.2/31", false, api.CodeConflict, "other"},
		{"10.6.0.30", false, api.CodeConflict, "stopped"},
		{"10.6.0.20", false, api.CodeConflict, "there"},
		{"10.6.0.21", false, api.CodeConflict, "held"},
		{"10.6.0.16/28", true, api.CodeConflict, "there"},
		{"10.6.0.99", false, api.CodeConflict, "its own address"},
		{"10.7.0.3", false, api.CodeConflict, "--forwarding"},        // of another network
		{"10.7.0.3", true, api.CodeConflict, `network "bar"`},        // also for one that forwards
		{"10.99.0.0/16", false, api.CodeConflict, "--forwarding"},    // outside of all
		{"192.0.2.1", true, api.CodeConflict, "192.0.2.0/24"},        // this host
		{"192.0.2.2", true, api.CodeConflict, "192.0.2.0/24"},        // a peer, on the underlay
		{"172.17.0.0/24", true, api.CodeConflict, "172.17.0.0/16"},   // Docker's bridge
		{"169.254.169.254", true, api.CodeInvalid, "169.254.0.0/16"}, // the cloud's metadata
		{"127.0.0.1", true, api.CodeInvalid, "127.0.0.0/8"},
		{"224.0.0.18", true, api.CodeInvalid, "224.0.0.0/3"},
		{"0.0.0.0/0", true, api.CodeInvalid, "too large"},
		{"x", false, api.CodeInvalid, "neither"},
	} {
		_, err := h.attachAllowed("new", "10.6.0.99", c.forwarding, c.allow)
		if api.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.say) {
			t.Errorf("%s, forwarding %t: %v", c.allow, c.forwarding, err)
		}
		_, err = h.Reserve(t.Context(), api.ReserveRequest{
			ID: "new", Network: "foo", IP: "10.6.0.99", Source: api.SourceDriver, AllowAddresses: []string{c.allow}, Forwarding: c.forwarding,
		})
		if api.CodeOf(err) != c.code {
			t.Errorf("reserve %s, forwarding %t: %v", c.allow, c.forwarding, err)
		}
	}
	_, err := h.attachAllowed("new", "10.6.0.99", true)
	wantCode(t, err, api.CodeInvalid, "--allow-address")
	h.wantWhole("after refusals", before)

	// What is allowed is nobody's own afterwards: neither chosen, nor asked for.
	if _, err := h.attachAllowed("vip", "10.6.0.99", false, "10.6.0.200", "10.6.0.3", "10.6.0.4/31"); err != nil {
		t.Fatal(err)
	}
	_, err = h.attachAllowed("late", "10.6.0.200", false)
	wantCode(t, err, api.CodeConflict, "vip")
	if e := h.mustAttach("next", "foo", "/ns/next"); e.IP.String() != "10.6.0.6" {
		t.Errorf("the next free address is %s", e.IP)
	}
	if hold, err := h.Hold(t.Context(), api.HoldRequest{Network: "foo"}); err != nil || hold.IP.String() != "10.6.0.7" {
		t.Errorf("the next hold is %+v, %v", hold, err)
	}
	h.publishAs(peerID, peerEndpoint{id: "there", ip: "10.6.0.20", attached: true, allowed: []string{"10.6.0.8/32"}})
	h.converge()
	if e := h.mustAttach("after", "foo", "/ns/after"); e.IP.String() != "10.6.0.9" {
		t.Errorf("the next free address is %s", e.IP)
	}
}

func TestForwardingContainer(t *testing.T) {
	h := newTestHost(t)
	h.upgraded(peerID)
	if _, err := h.attachAllowed("router", "10.6.0.10", true, "10.99.0.0/16"); err != nil {
		t.Fatal(err)
	}
	if got := h.allowedHere("10.6.0.10"); got != "10.99.0.0/16" {
		t.Errorf("programmed: %s", got)
	}
	// A host that comes to have an address there takes it back, and status says so.
	h.addrs = []netip.Prefix{netip.MustParsePrefix("10.99.0.1/16")}
	h.converge()
	if got := h.allowedHere("10.6.0.10"); got != "" {
		t.Errorf("programmed: %s", got)
	}
	if s, err := h.Status(t.Context()); err != nil || !slices.ContainsFunc(s.Problems, func(p string) bool { return strings.Contains(p, "10.99.0.0/16") }) {
		t.Errorf("status: %+v, %v", s, err)
	}
	h.addrs = nil
	h.converge()
	if s, err := h.Status(t.Context()); err != nil || h.allowedHere("10.6.0.10") != "10.99.0.0/16" || len(s.Problems) != 0 {
		t.Errorf("status: %+v, %v, programmed %s", s, err, h.allowedHere("10.6.0.10"))
	}
}

// What other hosts' lists say their endpoints are allowed is bounded by what is known here.
func TestAllowedElsewhere(t *testing.T) {
	const third = "33333333-3333-4333-8333-333333333333"
	h := newTestHost(t)
	h.upgraded(peerID, third)
	if _, err := h.attachAllowed("here", "10.6.0.10", false, "10.6.0.200"); err != nil {
		t.Fatal(err)
	}
	remotes := func() string {
		var list []string
		for _, m := range h.segment().Remote {
			list = append(list, strings.TrimSpace(m.IP.String()+" "+strings.Join(api.AllowedText(m.Allowed), " ")))
		}
		return strings.Join(list, "; ")
	}
	h.publishAs(peerID, peerEndpoint{id: "p", ip: "10.6.0.20", attached: true, allowed: []string{"10.6.0.200/32", "10.6.0.201/32", "10.99.0.0/16"}})
	h.converge()
	if got := remotes(); got != "10.6.0.20 10.6.0.200 10.6.0.201 10.99.0.0/16" {
		t.Errorf("programmed: %s", got)
	}
	// A host that claims as its endpoint's own what others are allowed comes too late.
	h.publishAs(third, peerEndpoint{id: "x", ip: "10.6.0.200", attached: true}, peerEndpoint{id: "y", ip: "10.6.0.201", attached: true}, peerEndpoint{id: "z", ip: "10.6.0.202"})
	h.converge()
	if got := remotes(); got != "10.6.0.20 10.6.0.200 10.6.0.201 10.99.0.0/16" {
		t.Errorf("programmed: %s", got)
	}
	if got := h.allowedHere("10.6.0.10"); got != "10.6.0.200" {
		t.Errorf("programmed here: %s", got)
	}
	if problems := strings.Join(h.contests.problems(), "\n"); !strings.Contains(problems, "10.6.0.200") || !strings.Contains(problems, "10.6.0.201") {
		t.Errorf("problems: %s", problems)
	}
	// Who is no longer allowed an address does not keep others from it.
	h.publishAs(peerID, peerEndpoint{id: "p", ip: "10.6.0.20", attached: true})
	h.converge()
	if got := remotes(); got != "10.6.0.20; 10.6.0.201" {
		t.Errorf("programmed: %s", got)
	}
	// Lists that no agent writes are not read.
	for _, bad := range [][]string{{"0.0.0.0/0"}, {"169.254.169.254/32"}, {"10.6.0.201/24"}, {"fd00::/64"}, slices.Repeat([]string{"10.6.0.201/32"}, api.MaxAllowed+1)} {
		h.publishAs(peerID, peerEndpoint{id: "p", ip: "10.6.0.21", attached: true, allowed: bad})
		h.watch()
		if len(h.view.problems()) == 0 {
			t.Errorf("%v was read", bad)
		}
	}
}

func (h *testHost) routesNow() string {
	h.t.Helper()
	var list []string
	for _, g := range h.sw.Forwarding().Segments {
		for _, r := range g.Routes {
			list = append(list, fmt.Sprintf("%s via %s", r.Prefix, r.Via))
		}
	}
	slices.Sort(list)
	return strings.Join(list, "; ")
}

func TestRoutes(t *testing.T) {
	h := newTestHost(t)
	h.upgraded(peerID)
	h.routes = []netip.Prefix{netip.MustParsePrefix("10.50.0.0/16")}
	for _, p := range []string{"10.96.0.0/11", "10.50.0.0/16", "10.6.0.0/16", "10.7.0.0/16", "192.0.2.0/24", "203.0.113.0/24"} {
		h.allowed.Routes = append(h.allowed.Routes, netip.MustParsePrefix(p))
	}
	h.start()
	h.converge()
	if _, err := h.attachAllowed("router", "10.6.0.10", true, "10.99.0.0/16", "10.50.0.0/16", "203.0.113.0/24", "198.51.100.0/24", "10.6.0.200"); err != nil {
		t.Fatal(err)
	}
	h.mustAttach("plain", "foo", "/ns/plain")
	h.publishAs(peerID, peerEndpoint{id: "p", ip: "10.6.0.20", attached: true, allowed: []string{"10.96.0.0/16"}, routes: []string{"10.96.0.0/16"}})
	h.converge()
	if got := h.routesNow(); got != "10.96.0.0/16 via 10.6.0.20" {
		t.Errorf("programmed: %s", got)
	}
	before := h.whole()
	for _, c := range []struct {
		id, route string
		code      api.Code
		say       string
	}{
		{"plain", "10.99.0.0/16", api.CodeConflict, "--forwarding --allow-address"},
		{"router", "10.98.0.0/16", api.CodeConflict, "--allow-address"},
		{"router", "10.98.0.0/15", api.CodeConflict, "--allow-address"},
		{"router", "10.6.0.200", api.CodeConflict, "own subnet"},
		{"router", "10.50.1.0/24", api.CodeConflict, "route of this host"},
		{"router", "198.51.100.0/24", api.CodeConflict, "allow_routes"},
		{"router", "0.0.0.0/0", api.CodeInvalid, "too large"},
		{"router", "x", api.CodeInvalid, "neither"},
		{"none", "10.99.0.0/16", api.CodeNotFound, "none"},
		{"../x", "10.99.0.0/16", api.CodeInvalid, "id"},
	} {
		_, err := h.SetRoutes(t.Context(), c.id, []string{c.route})
		if api.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.say) {
			t.Errorf("%s via %s: %v", c.route, c.id, err)
		}
	}
	h.wantWhole("after refusals", before)
	e, err := h.SetRoutes(t.Context(), "router", []string{"10.99.0.0/16", "203.0.113.0/25"})
	if err != nil || len(e.Routes) != 2 {
		t.Fatalf("%+v, %v", e, err)
	}
	want := "10.96.0.0/16 via 10.6.0.20; 10.99.0.0/16 via 10.6.0.10; 203.0.113.0/25 via 10.6.0.10"
	if got := h.routesNow(); got != want {
		t.Errorf("programmed: %s", got)
	}
	if got := h.kernelRoutes("foo"); len(got) != 3 {
		t.Errorf("in the kernel: %v", got)
	}
	_, err = h.attachAllowed("second", "10.6.0.11", true, "10.96.0.0/15")
	if err != nil {
		t.Fatal(err)
	}
	_, err = h.SetRoutes(t.Context(), "second", []string{"10.96.0.0/24"})
	wantCode(t, err, api.CodeConflict, `"p" on host "h2"`)
	// A new life knows them from the port.
	h.start()
	h.converge()
	if got := h.routesNow(); got != want {
		t.Errorf("after a restart: %s", got)
	}
	// Who claims a route later does not get it, nor what this host does not send into a network.
	h.publishAs(peerID,
		peerEndpoint{id: "p", ip: "10.6.0.20", attached: true, allowed: []string{"10.96.0.0/16"}, routes: []string{"10.96.0.0/16"}},
		peerEndpoint{id: "q", ip: "10.6.0.3", attached: true, allowed: []string{"10.96.0.0/12", "10.99.0.0/16"}, routes: []string{"10.96.0.0/12", "10.99.0.0/16"}},
		peerEndpoint{id: "r", ip: "10.6.0.4", attached: true, allowed: []string{"10.50.0.0/16", "8.0.0.0/8", "192.0.2.0/24", "10.7.0.0/24"}, routes: []string{"10.50.0.0/16", "8.0.0.0/8", "192.0.2.0/24", "10.7.0.0/24"}},
		peerEndpoint{id: "s", ip: "10.6.0.5", allowed: []string{"10.95.0.0/16"}, routes: []string{"10.95.0.0/16"}}) // not attached
	h.converge()
	if got := h.routesNow(); got != want {
		t.Errorf("with claims: %s", got)
	}
	if s, err := h.Status(t.Context()); err != nil || !strings.Contains(strings.Join(s.Problems, "\n"), "8.0.0.0/8") {
		t.Errorf("status: %+v, %v", s, err)
	}
	// Taken back, and gone with the endpoint.
	if _, err := h.SetRoutes(t.Context(), "router", []string{"10.99.0.0/16"}); err != nil {
		t.Fatal(err)
	}
	h.publishAs(peerID)
	if err := h.Detach(t.Context(), "router"); err != nil {
		t.Fatal(err)
	}
	h.settle()
	h.converge()
	if got := h.routesNow(); got != "" || len(h.kernelRoutes("foo")) != 0 {
		t.Errorf("after the end: %s", got)
	}
	if e := h.mustAttach("router", "", "/ns/r2"); len(e.Routes) != 1 || h.routesNow() != "10.99.0.0/16 via 10.6.0.10" {
		t.Errorf("started again: %+v, %s", e, h.routesNow())
	}
	// A list with a route that leads where it may not is not read.
	h.publishAs(peerID, peerEndpoint{id: "p", ip: "10.6.0.20", attached: true, routes: []string{"10.96.0.0/16"}})
	h.watch()
	if len(h.view.problems()) == 0 {
		t.Error("a route without an allowed prefix was read")
	}
}

// What the switch counts by port is told by endpoint, and only when somebody asks.
func TestDropsByEndpoint(t *testing.T) {
	h := newTestHost(t)
	a, b := h.mustAttach("a", "foo", "/ns/a"), h.mustAttach("b", "bar", "/ns/b")
	ofport := func(id string) int { l, _ := h.table.get(id); return l.OFPort }
	h.sw.CountDrops(ofport("a"), map[ovs.Cause]uint64{ovs.CauseSource: 3, ovs.CauseMAC: 1})
	h.sw.CountDrops(ofport("a")+1000, map[ovs.Cause]uint64{ovs.CauseARP: 9}) // of a port that is nobody's
	h.calls.Reset()
	h.converge()
	if slices.Contains(h.calls.Names(), "Switch.Drops") {
		t.Error("the counters are read without a question")
	}
	got, err := h.Drops(t.Context())
	if want := map[string]api.Drops{"a": {"source": 3, "mac": 1}}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	if err := h.Detach(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	h.settle()
	if got, err := h.Drops(t.Context()); err != nil || len(got) != 0 {
		t.Errorf("after the end of %s beside %s: %v, %v", a.IP, b.IP, got, err)
	}
	h.calls.Fail("Switch.Drops", ovs.ErrUnavailable)
	if _, err := h.Drops(t.Context()); api.CodeOf(err) != api.CodeUnavailable {
		t.Errorf("without the switch: %v", err)
	}
}
