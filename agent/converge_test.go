package agent

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/socketplane/socketplane/agent/agenttest"
	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/cluster"
	"github.com/socketplane/socketplane/agent/link"
	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/ovs"
)

// twoAttached has one endpoint by Docker and one by connect, on two networks.
func twoAttached(t *testing.T) *testHost {
	h := newTestHost(t)
	h.mustAttach("c1", "foo", "/ns/1")
	if _, err := h.Attach(t.Context(), api.AttachRequest{ID: "n1", Network: "bar", NetNS: "/ns/2", Source: api.SourceConnect}); err != nil {
		t.Fatal(err)
	}
	h.converge()
	h.settle() // else this life's errands meet what a test does next, or the next life
	return h
}

func TestConvergeMends(t *testing.T) {
	port := link.HostName("c1")
	for name, harm := range map[string]func(*testHost){
		"nothing":        func(*testHost) {},
		"port gone":      func(h *testHost) { h.sw.Change(port, func(*ovs.Port) bool { return false }) },
		"other ofport":   func(h *testHost) { h.sw.Change(port, func(p *ovs.Port) bool { p.OFPort = 99; return true }) },
		"other tag":      func(h *testHost) { h.sw.Change(port, func(p *ovs.Port) bool { p.VLAN = 99; return true }) },
		"ids changed":    func(h *testHost) { h.sw.Change(port, func(p *ovs.Port) bool { p.IDs[idIP] = "x"; return true }) },
		"gateway gone":   func(h *testHost) { h.sw.Change(link.GatewayName("foo"), func(*ovs.Port) bool { return false }) },
		"stray veth":     func(h *testHost) { h.links.AddVeth("spvstray") },
		"flows gone":     func(h *testHost) { _ = h.sw.SetForwarding(h.t.Context(), ovs.Forwarding{}) },
		"list gone":      func(h *testHost) { h.remove(network.EndpointsKey("foo", selfID)) },
		"list changed":   func(h *testHost) { h.put(network.EndpointsKey("foo", selfID), `{"version":1,"endpoints":[]}`) },
		"all lists gone": func(h *testHost) { h.remove(network.EndpointsPrefix) },
		"tunnel gone":    func(h *testHost) { h.sw.Change(ovs.TunnelName(peerID), func(*ovs.Port) bool { return false }) },
		"stray port":     func(h *testHost) { h.sw.Change(link.HostName("c9"), strayPort("c9")) },
		"stray gateway":  func(h *testHost) { h.sw.Change(link.GatewayName("baz"), strayGateway) },
		"stray port, veth": func(h *testHost) {
			h.sw.Change(link.HostName("c9"), strayPort("c9"))
			h.links.AddVeth(link.HostName("c9"))
		},
		"restart, port gone": func(h *testHost) { h.sw.Change(port, func(*ovs.Port) bool { return false }); h.start() },
		"restart":            func(h *testHost) { h.start() },
	} {
		t.Run(name, func(t *testing.T) {
			h := twoAttached(t)
			want := h.whole()
			harm(h)
			h.converge()
			if name == "restart, port gone" { // the path was kept with the port
				i := slices.IndexFunc(want, func(l string) bool { return strings.HasPrefix(l, "port "+port) })
				want[i] = strings.Replace(want[i], " netns:/ns/1", "", 1)
			}
			h.wantWhole("mended", want)
			ports, _ := h.sw.Ports(t.Context())
			for _, s := range h.sw.Forwarding().Segments {
				for _, l := range s.Local {
					if !slices.ContainsFunc(ports, func(p ovs.Port) bool { return p.OFPort == l.OFPort && p.Kind == ovs.KindEndpoint }) {
						t.Errorf("flows name port %d, which is not there", l.OFPort)
					}
				}
			}
		})
	}
}

func strayPort(id string) func(*ovs.Port) bool {
	return func(p *ovs.Port) bool {
		p.Kind, p.OFPort = ovs.KindEndpoint, 77
		p.IDs = map[string]string{idEndpoint: id, idIP: "10.6.0.77", idMAC: "02:42:0a:06:00:4d", idNetwork: "foo"}
		return true
	}
}

func strayGateway(p *ovs.Port) bool {
	p.Kind, p.OFPort, p.IDs = ovs.KindGateway, 78, map[string]string{idNetwork: "baz"}
	return true
}

func TestLostInterface(t *testing.T) {
	for name, restart := range map[string]bool{"while it runs": false, "while it is away": true} {
		t.Run(name, func(t *testing.T) {
			h := twoAttached(t)
			h.links.RemoveNetNS("/ns/1")
			h.links.RemoveNetNS("/ns/2")
			if restart {
				h.start()
			}
			h.converge()
			h.settle() // the network of a container of Docker's lingers
			if e, err := h.Endpoint(t.Context(), "c1"); err != nil || e.Attached || e.IP.String() != "10.6.0.2" {
				t.Errorf("a Docker container that stopped: %+v, %v", e, err)
			}
			_, err := h.Endpoint(t.Context(), "n1")
			wantCode(t, err, api.CodeNotFound)
			if list, err := h.Addresses.List(t.Context(), netip.MustParsePrefix("10.7.0.0/29")); err != nil || len(list) > 0 {
				t.Errorf("addresses left: %v, %v", list, err)
			}
			if f := h.sw.Forwarding(); len(f.Segments) > 0 {
				t.Errorf("flows left: %+v", f)
			}
		})
	}
}

func TestForeignIsLeftAlone(t *testing.T) {
	h := twoAttached(t)
	bad := link.HostName("c8")
	h.sw.Change(bad, func(p *ovs.Port) bool {
		p.Kind, p.IDs = ovs.KindEndpoint, map[string]string{idEndpoint: "c8", idIP: "nonsense"}
		return true
	})
	// A port that claims to be another's must not take the other down.
	h.sw.Change("spvliar", func(p *ovs.Port) bool { strayPort("c1")(p); return true })
	h.links.AddVeth(bad)
	h.put(network.NetworksPrefix+"broken", `{"version":7}`)
	h.put(cluster.HostsPrefix+"broken", `{}`)
	h.put(network.EndpointsKey("foo", "broken"), `[]`)
	want := h.whole()
	for range 2 {
		h.start()
		h.converge()
		h.wantWhole("left alone", want)
	}
	s, err := h.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{bad, "spvliar", "networks/broken", "hosts/broken", "endpoints/foo/broken"} {
		if !slices.ContainsFunc(s.Problems, func(p string) bool { return strings.Contains(p, part) && !strings.Contains(p, "\n") }) {
			t.Errorf("nobody is told of %s: %q", part, s.Problems)
		}
	}
	h.mustAttach("c2", "foo", "/ns/3") // and all else goes on
}

// TestOwnListUnreadable: what we cannot read of our own is not written over,
// its addresses stay taken, and the other networks go on.
func TestOwnListUnreadable(t *testing.T) {
	for value, remedy := range map[string]string{
		`{"version":2,"more":true}`:          "install the newer release",
		`{"version":1,"endpoints":[{"id":1}`: "delete the key",
	} {
		t.Run(remedy, func(t *testing.T) { testOwnListUnreadable(t, value, remedy) })
	}
}

func testOwnListUnreadable(t *testing.T, value, remedy string) {
	h := newTestHost(t)
	h.mustAttach("c1", "foo", "/ns/1")
	if err := h.Detach(t.Context(), "c1"); err != nil {
		t.Fatal(err)
	}
	h.settle()
	key := network.EndpointsKey("foo", selfID)
	good, _ := h.store.Get(t.Context(), key)
	h.put(key, value)
	h.start()
	h.watch()
	_ = h.Agent.converge(t.Context(), true)
	if e, _ := h.store.Get(t.Context(), key); string(e.Value) != value {
		t.Fatalf("written over with %s", e.Value)
	}
	if list, _ := h.Addresses.List(t.Context(), netip.MustParsePrefix("10.6.0.0/16")); len(list) != 1 {
		t.Fatalf("addresses: %v", list)
	}
	_, err := h.Attach(t.Context(), api.AttachRequest{ID: "c2", Network: "foo", NetNS: "/ns/2"})
	wantCode(t, err, api.CodeUnavailable, key, remedy)
	h.mustAttach("c3", "bar", "/ns/3")

	h.put(key, string(good.Value))
	_ = h.Agent.converge(t.Context(), true)
	h.converge()
	if e := h.mustAttach("c1", "", "/ns/1"); e.IP.String() != "10.6.0.2" {
		t.Errorf("its address became %s", e.IP)
	}
}

// TestStoreLost: a store that comes back empty takes nothing from what runs.
func TestStoreLost(t *testing.T) {
	for name, restart := range map[string]bool{"while it runs": false, "at the start": true} {
		t.Run(name, func(t *testing.T) {
			h := twoAttached(t)
			flows, links, nat := h.sw.Forwarding().Segments, h.links.State(), h.nat.State()
			h.remove(state.Prefix)
			if restart {
				h.start()
			}
			for range 2 {
				h.watch()
				_ = h.Agent.converge(t.Context(), true) // it cannot publish
			}
			same := func(what string) {
				t.Helper()
				if got := h.sw.Forwarding().Segments; fmt.Sprint(got) != fmt.Sprint(flows) {
					t.Errorf("%s: flows are %v, were %v", what, got, flows)
				}
				if got := h.links.State(); !slices.Equal(got, links) {
					t.Errorf("%s: links are %v, were %v", what, got, links)
				}
				if got := h.nat.State(); !slices.Equal(got, nat) {
					t.Errorf("%s: rules are %v, were %v", what, got, nat)
				}
			}
			same("lost")
			s, _ := h.Status(t.Context())
			if !slices.ContainsFunc(s.Problems, func(p string) bool { return strings.Contains(p, "socketplane network create foo 10.6.0.0/16") }) {
				t.Errorf("problems: %q", s.Problems)
			}
			for _, req := range []api.CreateNetworkRequest{{ID: "foo", Subnet: "10.6.0.0/16"}, {ID: "bar", Subnet: "10.7.0.0/29"}} {
				if _, err := h.CreateNetwork(t.Context(), req); err != nil {
					t.Fatal(err)
				}
			}
			h.converge()
			same("made again")
			e, err := h.Attach(t.Context(), api.AttachRequest{ID: "c2", Network: "foo", NetNS: "/ns/9"})
			if err != nil || e.IP.String() == "10.6.0.2" {
				t.Errorf("an address is given twice: %v, %v", e.IP, err)
			}
		})
	}
}

func TestPeers(t *testing.T) {
	h := twoAttached(t)
	ep := `{"version":1,"endpoints":[{"id":"r1","ip":"10.6.0.200","mac":"02:42:0a:06:00:c8","ifname":"eth0","source":"docker","attached":true}]}`
	h.put(network.EndpointsKey("foo", peerID), ep)
	h.converge()
	if !slices.Contains(h.sw.State(), "remote 10001 10.6.0.200 02:42:0a:06:00:c8") {
		t.Fatalf("%q", h.sw.State())
	}
	with := h.whole()
	record, _ := h.store.Get(t.Context(), cluster.HostsPrefix+peerID)

	// A record that vanishes may come again: the tunnel stays a while.
	h.remove(cluster.HostsPrefix + peerID)
	h.converge()
	h.put(cluster.HostsPrefix+peerID, string(record.Value))
	h.wantWhole("vanished", with)
	h.remove(cluster.HostsPrefix + peerID)
	h.converge()
	start := time.Now()
	h.view.now = func() time.Time { return start.Add(2 * peerGrace) }
	h.converge()
	if s := strings.Join(h.sw.State(), "\n"); strings.Contains(s, "vxlan") || strings.Contains(s, "remote") {
		t.Errorf("gone for good, and still there:\n%s", s)
	}

	// The machine again, installed anew, and its old record: the living one has the tunnel.
	h.put(cluster.HostsPrefix+peerID, string(record.Value))
	other := "00000000-2222-4222-8222-222222222222"
	session, err := h.store.OpenSession(t.Context(), "other", 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.store.Txn(t.Context(), []state.Op{{
		Kind: state.OpCAS, Key: cluster.HostsPrefix + other, Session: session.ID(),
		Value: []byte(strings.ReplaceAll(string(record.Value), peerID, other)),
	}}); err != nil {
		t.Fatal(err)
	}
	h.converge()
	if s := strings.Join(h.sw.State(), "\n"); !strings.Contains(s, ovs.TunnelName(other)) || strings.Contains(s, ovs.TunnelName(peerID)) {
		t.Errorf("the dead host has the tunnel:\n%s", s)
	}
}

func TestMTUIsFollowed(t *testing.T) {
	h := twoAttached(t)
	h.mtu = 9000
	h.put(cluster.HostsPrefix+peerID, fmt.Sprintf(
		`{"version":1,"id":%q,"name":"h2","vtep":"192.0.2.2","underlay_mtu":1400,"routes":null,"agent":"","datapath":"netdev"}`, peerID))
	h.converge()
	h.converge()
	for _, l := range h.links.State() {
		if !strings.Contains(l, "mtu 1350") || strings.Contains(l, "mtu 1450") {
			t.Errorf("not followed: %s", l)
		}
	}
	if g := h.links.Gateway(link.GatewayName("foo")); g.MTU != 1350 {
		t.Errorf("gateway: %+v", g)
	}
	if n, err := h.Network(t.Context(), "foo"); err != nil || n.MTU != 1350 {
		t.Errorf("%+v, %v", n, err)
	}
}

// TestFlowsBeforeTheFirstPass: a new agent has the store's view before it knows
// what it has on which network. Until then no flow may go.
func TestFlowsBeforeTheFirstPass(t *testing.T) {
	h := twoAttached(t)
	before := h.sw.State()
	h.start()
	h.watch()
	if err := h.forwarding.Do(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, call := range []string{"Switch.SetTunnels", "Switch.Ports", "Store.List", "Switch.AddPort", "NAT.Compare"} {
		h.calls.Fail(call, agenttest.ErrFailed)
		if err := h.Agent.converge(t.Context(), true); err == nil {
			t.Errorf("%s failed, and no error", call)
		}
		if err := h.forwarding.Do(t.Context()); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(before, h.sw.State()); diff != "" {
			t.Errorf("%s failed (-want +got):\n%s", call, diff)
		}
		h.calls.Fail(call, nil)
	}
	h.converge()
	if diff := cmp.Diff(before, h.sw.State()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestAddressOutlivesPort: while the port of an endpoint cannot be taken away,
// nobody else is given its address.
func TestAddressOutlivesPort(t *testing.T) {
	h := newTestHost(t)
	empty := h.whole()
	h.mustAttach("c1", "foo", "/ns/1")
	h.calls.Fail("Switch.RemovePort", fmt.Errorf("%w: told so", ovs.ErrUnavailable))
	wantCode(t, h.Release(t.Context(), "c1"), api.CodeUnavailable, "ovs-vswitchd")
	_, err := h.Attach(t.Context(), api.AttachRequest{ID: "c2", Network: "foo", IP: "10.6.0.2", NetNS: "/ns/2"})
	wantCode(t, err, api.CodeConflict, "10.6.0.2 is taken")
	for range 2 {
		if err := h.Agent.converge(t.Context(), false); err == nil {
			t.Error("no error")
		}
	}
	if list, _ := h.Addresses.List(t.Context(), netip.MustParsePrefix("10.6.0.0/16")); len(list) != 1 {
		t.Errorf("addresses: %v", list)
	}
	h.calls.Fail("Switch.RemovePort", nil)
	h.converge()
	h.wantWhole("finished", empty)
}
