package agent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/cluster"
	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/agent/state"
)

const thiefID = "00000000-0000-4000-8000-000000000000" // sorts before all others

// hostile is a host whose store somebody else writes to.
func hostile(t *testing.T) *testHost {
	t.Helper()
	h := newTestHost(t)
	h.routes = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("172.17.0.0/16")}
	h.addrs = []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("172.17.0.1/16")}
	h.converge()
	return h
}

// writeNetwork writes a network's record as whoever can write the store does.
func (h *testHost) writeNetwork(id, subnet string, vni int, more string) {
	h.t.Helper()
	p := netip.MustParsePrefix(subnet)
	h.put(network.Key(id), fmt.Sprintf(`{"version":1,"id":%q,"subnet":%q,"gateway":%q,"vlan":%d,"vni":%d%s}`, id, p, p.Addr().Next(), vni-network.VNIBase, vni, more))
}

// writeHost writes a host's record, held by a session as that of a living host.
func (h *testHost) writeHost(id, name, vtep string, mtu int) {
	h.t.Helper()
	h.putHeld(cluster.HostsPrefix+id, fmt.Sprintf(
		`{"version":1,"id":%q,"name":%q,"vtep":%q,"underlay_mtu":%d,"routes":null,"agent":"","datapath":"netdev"}`, id, name, vtep, mtu))
}

func (h *testHost) putHeld(key, value string) {
	h.t.Helper()
	s, err := h.store.OpenSession(h.t.Context(), "test", time.Minute)
	if err != nil {
		h.t.Fatal(err)
	}
	h.remove(key)
	h.put(key, value)
	e, err := h.store.Get(h.t.Context(), key)
	if err != nil {
		h.t.Fatal(err)
	}
	if err := h.store.Txn(h.t.Context(), []state.Op{{Kind: state.OpCAS, Key: key, Value: []byte(value), Version: e.Version, Session: s.ID()}}); err != nil {
		h.t.Fatal(err)
	}
}

func (h *testHost) problems() string {
	h.t.Helper()
	st, err := h.Status(context.Background())
	if err != nil {
		h.t.Fatal(err)
	}
	return strings.Join(st.Problems, "\n")
}

// named checks that status says one thing with all the parts.
func (h *testHost) named(parts ...string) {
	h.t.Helper()
	all := h.problems()
	for line := range strings.Lines(all) {
		if !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(line, p) }) {
			return
		}
	}
	h.t.Errorf("status does not name %q:\n%s", parts, all)
}

func (h *testHost) well() {
	h.t.Helper()
	if all := h.problems(); all != "" {
		h.t.Errorf("status names: %s", all)
	}
}

// data is what the host does to packets: switch, packet filter and interfaces.
func (h *testHost) data() string {
	return strings.Join(slices.Concat(h.sw.State(), h.nat.State(), h.links.State()), "\n")
}

func TestNetworkOverlaps(t *testing.T) {
	for subnet, says := range map[string]string{
		"192.0.2.0/25": "192.0.2", "8.8.8.0/24": "no private range", "172.17.4.0/24": "route 172.17.0.0/16", "10.6.9.0/24": `network "foo"`,
	} {
		h := hostile(t)
		h.writeNetwork("evil", subnet, 10099, "")
		h.converge()
		_, err := h.Attach(t.Context(), api.AttachRequest{ID: "c1", Network: "evil", NetNS: "/ns/1"})
		wantCode(t, err, api.CodeConflict, `"evil"`, says)
		_, err = h.Hold(t.Context(), api.HoldRequest{Network: "evil"})
		wantCode(t, err, api.CodeConflict, `"evil"`, says)
		if strings.Contains(h.data(), "10099") {
			t.Errorf("%s is programmed: %s", subnet, h.data())
		}
		h.named(`network "evil"`, says, "version")
		h.writeNetwork("evil", "10.9.0.0/16", 10099, "")
		h.converge()
		h.well()
		h.mustAttach("c1", "evil", "/ns/1")
	}
}

// A network that is in use stays when a route of the host comes to overlap it, and
// when its record is changed; an agent that starts anew knows it by its gateway.
func TestNetworkInUseStays(t *testing.T) {
	for name, spoil := range map[string]func(h *testHost){
		"underlay": func(h *testHost) { h.writeNetwork("foo", "192.0.2.0/24", 10001, "") },
		"public":   func(h *testHost) { h.writeNetwork("foo", "8.0.0.0/8", 10001, "") },
		"VNI":      func(h *testHost) { h.writeNetwork("foo", "10.6.0.0/16", 10055, "") },
		"a VPN":    func(h *testHost) { h.routes = append(h.routes, netip.MustParsePrefix("10.6.3.0/24")) },
	} {
		t.Run(name, func(t *testing.T) {
			h := hostile(t)
			h.mustAttach("c1", "foo", "/ns/1")
			h.converge()
			was := h.data()
			spoil(h)
			check := func(when string) {
				t.Helper()
				h.converge()
				if now := h.data(); now != was {
					t.Errorf("%s: it is\n%s\nand was\n%s", when, now, was)
				}
				h.named(`network "foo"`)
			}
			check("running")
			h.start()
			check("started anew")
			if name == "a VPN" {
				return
			}
			// Another endpoint goes where the first one is.
			if e := h.mustAttach("c2", "foo", "/ns/2"); !netip.MustParsePrefix("10.6.0.0/16").Contains(e.IP) {
				t.Errorf("attached at %s", e.IP)
			}
			for _, id := range []string{"c1", "c2"} {
				if err := h.Release(t.Context(), id); err != nil {
					t.Fatal(err)
				}
			}
			h.settle()
			h.converge()
			if name == "VNI" {
				h.mustAttach("c3", "foo", "/ns/3")
				if !strings.Contains(h.data(), "segment 10055") {
					t.Errorf("the new values are not taken: %s", h.data())
				}
			} else if strings.Contains(h.data(), "nat") {
				t.Errorf("it is there: %s", h.data())
			}
			h.writeNetwork("foo", "10.6.0.0/16", 10001, "")
			h.converge()
			h.settle()
		})
	}
}

// An endpoint that only holds an address of a subnet that its network has no more
// does not start.
func TestReservedOutside(t *testing.T) {
	h := hostile(t)
	if _, err := h.Reserve(t.Context(), api.ReserveRequest{ID: "c1", Network: "foo", Source: api.SourceDocker}); err != nil {
		t.Fatal(err)
	}
	h.settle()
	h.start()
	h.converge()
	h.writeNetwork("foo", "10.9.0.0/16", 10001, "")
	h.converge()
	_, err := h.Attach(t.Context(), api.AttachRequest{ID: "c1", NetNS: "/ns/1"})
	wantCode(t, err, api.CodeConflict, "10.6.0.2", "10.9.0.0/16", "anew")
}

func TestMetadataNeedsThisHost(t *testing.T) {
	open := func(h *testHost) bool {
		h.converge()
		return slices.ContainsFunc(h.nat.Networks(), func(n string) bool { return n == "10.6.0.0/16 metadata" })
	}
	h := hostile(t)
	h.mustAttach("c1", "foo", "/ns/1")
	h.writeNetwork("foo", "10.6.0.0/16", 10001, `,"allow_metadata":true`)
	if open(h) {
		t.Error("the store alone opens the metadata")
	}
	h.named(`network "foo"`, "metadata", "allow_metadata")
	n, err := h.Network(t.Context(), "foo")
	if err != nil || !n.AllowMetadata || !strings.Contains(n.Problem, "allow_metadata") {
		t.Errorf("%+v, %v", n, err)
	}
	for _, allow := range []string{"foo", "*"} {
		h.allowed.Metadata = []string{allow}
		h.start()
		if !open(h) {
			t.Errorf("%q does not open it", allow)
		}
		h.well()
	}
	h.allowed.Metadata = []string{"bar"}
	h.start()
	if open(h) {
		t.Error("another network's name opens it")
	}
}

func TestPublicNetworks(t *testing.T) {
	h := hostile(t)
	req := api.CreateNetworkRequest{ID: "pub", Subnet: "203.0.113.0/25"}
	_, err := h.CreateNetwork(t.Context(), req)
	wantCode(t, err, api.CodeInvalid, "allow_public", "every host")
	h.allowed.Public = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}
	h.start()
	h.converge()
	if n, err := h.CreateNetwork(t.Context(), req); err != nil || n.Problem != "" {
		t.Fatalf("%+v, %v", n, err)
	}
	h.mustAttach("c1", "pub", "/ns/1")
}

func tunnels(h *testHost) string {
	var list []string
	for _, line := range h.sw.State() {
		if strings.Contains(line, " tunnel ") {
			list = append(list, line)
		}
	}
	return strings.Join(list, "\n")
}

func TestHostileHosts(t *testing.T) {
	for vtep, says := range map[string]string{
		"192.0.2.2": `host "h2"`, "192.0.2.255": "broadcast", "192.0.2.1": "of this host", "172.17.0.1": "of this host", "10.6.0.9": `network "foo"`, "169.254.1.1": "no unicast",
	} {
		t.Run(vtep, func(t *testing.T) {
			h := hostile(t)
			h.writeHost(peerID, "h2", "192.0.2.2", 1500)
			h.mustAttach("c1", "foo", "/ns/1")
			h.converge()
			was := tunnels(h)
			h.writeHost(thiefID, "a-thief", vtep, 1500)
			check := func() {
				t.Helper()
				h.converge()
				if now := tunnels(h); now != was {
					t.Errorf("tunnels are\n%s\nand were\n%s", now, was)
				}
				h.named("a-thief", vtep, says, thiefID)
			}
			check()
			h.start()
			check()
			h.remove(cluster.HostsPrefix + thiefID)
			h.converge()
			h.view.now = func() time.Time { return time.Now().Add(2 * peerGrace) }
			h.converge()
			h.well()
		})
	}
}

// A peer's record that somebody else spoils costs it no packet.
func TestPeerIsSpoilt(t *testing.T) {
	for _, vtep := range []string{"192.0.2.255", "192.0.2.77"} {
		h := hostile(t)
		h.writeHost(peerID, "h2", "192.0.2.2", 1500)
		h.converge()
		was := tunnels(h)
		h.writeHost(peerID, "h2", vtep, 1500)
		h.converge()
		if now := tunnels(h); now != was {
			t.Errorf("%s: tunnels are\n%s\nand were\n%s", vtep, now, was)
		}
		if vtep == "192.0.2.77" { // it may be true: then it stands
			h.view.now = func() time.Time { return time.Now().Add(time.Minute) }
			h.converge()
			if !strings.Contains(tunnels(h), "remote:"+vtep) {
				t.Errorf("the tunnel does not follow: %s", tunnels(h))
			}
		}
	}
}

// Who deletes a peer's record and claims its address has it only until the peer has
// written its record again.
func TestPeerIsReplaced(t *testing.T) {
	h := hostile(t)
	h.writeHost(peerID, "h2", "192.0.2.2", 1500)
	h.put(network.EndpointsKey("foo", peerID), `{"version":1,"endpoints":[{"id":"r1","ip":"10.6.0.9","mac":"02:42:0a:06:00:09","ifname":"eth0","source":"docker","attached":true}]}`)
	h.converge()
	was := tunnels(h)
	h.remove(cluster.HostsPrefix + peerID)
	h.writeHost(thiefID, "a-thief", "192.0.2.2", 1500)
	h.converge()
	h.writeHost(peerID, "h2", "192.0.2.2", 1500)
	h.converge()
	if now := tunnels(h); now != was {
		t.Errorf("tunnels are\n%s\nand were\n%s", now, was)
	}
	h.named("a-thief", `host "h2"`)
}

func TestSmallMTU(t *testing.T) {
	h := hostile(t)
	for mtu, want := range map[int]int{646: 1450, 1279: 1450, 1280: 1230} {
		h.writeHost(peerID, "h2", "192.0.2.2", mtu)
		h.converge()
		if n, err := h.Network(t.Context(), "foo"); err != nil || n.MTU != want {
			t.Errorf("with %d: %d, %v", mtu, n.MTU, err)
		}
		if want == 1450 {
			h.named(`"h2"`, fmt.Sprint(mtu), "1280")
		} else {
			h.well()
		}
	}
	h.mtu = 1200
	h.converge()
	h.named("this host", "1200", "1280")
	if n, err := h.Network(t.Context(), "foo"); err != nil || n.MTU != 1150 {
		t.Errorf("its own: %d, %v", n.MTU, err)
	}
}

// An address, or a MAC, that an endpoint has is not another's because a list says so.
func TestContestedAddresses(t *testing.T) {
	h := hostile(t)
	h.writeHost(peerID, "h2", "192.0.2.2", 1500)
	h.mustAttach("c1", "foo", "/ns/1") // 10.6.0.2
	remote := func(host, ip, mac string) {
		t.Helper()
		value, err := encodeEndpoints([]endpoint{{ID: "r" + host[:1], IP: netip.MustParseAddr(ip), MAC: mac, IfName: "eth0", Attached: true}}, "")
		if err != nil {
			t.Fatal(err)
		}
		h.put(network.EndpointsKey("foo", host), string(value))
		h.converge()
	}
	good := netip.MustParseAddr("10.6.0.9")
	remote(peerID, good.String(), macOf(good))
	h.writeHost(thiefID, "a-thief", "192.0.2.9", 1500)
	h.converge()
	was := h.data()
	for _, c := range []struct{ ip, mac, says string }{
		{"10.6.0.9", "02:42:00:00:00:07", "address 10.6.0.9"},
		{"10.6.0.3", macOf(good), "MAC address " + macOf(good)},
		{"10.6.0.2", "02:42:00:00:00:07", "address 10.6.0.2"},
		{"10.6.0.0", "02:42:00:00:00:07", "address 10.6.0.0"},
		{"10.6.255.255", "02:42:00:00:00:07", "address 10.6.255.255"},
		{"10.6.0.1", "02:42:00:00:00:07", "the gateway has"},
		{"10.6.0.3", "02:42:0a:06:00:01", "the gateway has"},
	} {
		remote(thiefID, c.ip, c.mac)
		if now := h.data(); now != was {
			t.Errorf("%+v: it is\n%s\nand was\n%s", c, now, was)
		}
		h.named("a-thief", c.says)
	}
	h.remove(network.EndpointsKey("foo", thiefID))
	h.converge()
	h.well()
}

// TestAgentAwayKeepsAddress: a host that is known does not get the packets of one whose
// agent is away, and does not let it be taken for dead.
func TestAgentAwayKeepsAddress(t *testing.T) {
	h := hostile(t) // the peer's session does not hold its record
	h.writeHost(thiefID, "thief", "192.0.2.9", 1500)
	h.converge()
	was := h.data()
	h.writeHost(thiefID, "thief", "192.0.2.2", 1500)
	h.converge()
	if now := h.data(); now != was {
		t.Errorf("it is\n%s\nand was\n%s", now, was)
	}
	h.named(thiefID, "192.0.2.2", `"h2"`, "its tunnel stays at 192.0.2.9")
	if h.believed(thiefID) || !h.believed(peerID) {
		t.Errorf("believed: the thief %v, the peer %v", h.believed(thiefID), h.believed(peerID))
	}
}

// TestListTakenAway: a list that somebody else empties, spoils or deletes while its host
// lives costs that host's endpoints no packet, since the host puts it right. One that
// stays away is believed, and so is another host that has the address.
func TestListTakenAway(t *testing.T) {
	key := network.EndpointsKey("foo", peerID)
	for name, spoil := range map[string]func(h *testHost){
		"deleted":  func(h *testHost) { h.remove(key) },
		"emptied":  func(h *testHost) { h.put(key, `{"version":1,"endpoints":[]}`) },
		"detached": func(h *testHost) { h.put(key, strings.Replace(peerList, `"attached":true`, `"attached":false`, 1)) },
	} {
		t.Run(name, func(t *testing.T) {
			h := hostile(t)
			now := time.Now()
			h.view.now = func() time.Time { return now }
			h.mustAttach("c1", "foo", "/ns/1")
			h.writeHost(peerID, "h2", "192.0.2.2", 1500)
			h.put(key, peerList)
			h.converge()
			port := func() int {
				t.Helper()
				if err := h.forwarding.Do(t.Context()); err != nil {
					t.Fatal(err)
				}
				for _, g := range h.sw.Forwarding().Segments {
					for _, r := range g.Remote {
						if r.IP == netip.MustParseAddr("10.6.0.64") {
							return r.OFPort
						}
					}
				}
				return 0
			}
			was := port()
			if was == 0 {
				t.Fatal("the peer's endpoint is not reached")
			}
			spoil(h)
			h.watch()
			if port() != was {
				t.Error("its packets are lost")
			}
			now = now.Add(missTime / 2)
			h.put(key, peerList) // the host puts it right
			h.watch()
			now = now.Add(missTime)
			if port() != was {
				t.Error("its packets are lost when it was put right")
			}

			spoil(h)
			h.watch()
			now = now.Add(missTime)
			if port() != 0 {
				t.Error("it is still there long after it has gone")
			}
			h.put(key, peerList)
			h.watch()
			spoil(h)
			h.watch()
			h.writeHost(thiefID, "h3", "192.0.2.9", 1500) // which has the address now
			h.put(network.EndpointsKey("foo", thiefID), peerList)
			h.converge()
			if got := port(); got == 0 || got == was {
				t.Errorf("who has the address now is not reached: port %d, was %d", got, was)
			}
			h.well()
			now = now.Add(time.Hour)
		})
	}

	// The list of a host whose agent is away is believed at once: nobody puts it right.
	h := hostile(t)
	h.mustAttach("c1", "foo", "/ns/1")
	h.put(key, peerList)
	h.converge()
	h.remove(key)
	h.converge()
	if strings.Contains(h.data(), "10.6.0.64") {
		t.Errorf("an endpoint of a host whose agent is away:\n%s", h.data())
	}
}

// TestMissedGoes: a vanished endpoint goes by itself, without another change.
func TestMissedGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newView(selfID)
		v.hosts = []cluster.Host{{ID: peerID, Alive: true}}
		value := func(text string) state.Snapshot {
			v.index[partEndpoints]++
			return state.Snapshot{Index: v.index[partEndpoints], Entries: []state.Entry{{Key: network.EndpointsKey("foo", peerID), Value: []byte(text), Version: v.index[partEndpoints]}}}
		}
		v.set(partEndpoints, value(peerList))
		if v.missing() != 0 {
			t.Error("nothing has vanished")
		}
		v.set(partEndpoints, value(`{"version":1,"endpoints":[]}`))
		if v.missing() != missTime || len(v.missedOn("foo")[peerID]) != 1 || len(v.missedOn("bar")) != 0 {
			t.Errorf("%v, %v", v.missing(), v.missedOn("foo"))
		}
		time.Sleep(missTime)
		if v.missing() != 0 || len(v.missedOn("foo")) != 0 {
			t.Errorf("%v, %v", v.missing(), v.missedOn("foo"))
		}
	})
}
