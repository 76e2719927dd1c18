package agent

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/agent/state"
)

// thirdID is another peer beside peerID.
const thirdID = "00000000-3333-4333-8333-333333333333"

// remotesNow lists the endpoints of other hosts that the switch knows, with what each is
// allowed.
func (h *testHost) remotesNow() string {
	h.t.Helper()
	var list []string
	for _, r := range h.segment().Remote {
		list = append(list, strings.TrimSpace(r.IP.String()+" "+strings.Trim(fmt.Sprint(r.Allowed), "[]")))
	}
	return strings.Join(list, "; ")
}

// A permission that the switch does not grant keeps no endpoint off the network, but
// nobody is given an address that it covers.
func TestPermissionNotInForce(t *testing.T) {
	for allowed, avoided := range map[string]bool{"10.6.0.0/16": false, "10.0.0.0/8": false, "10.6.0.0/24": false, "10.6.255.0/24": false, "10.6.1.0/24": true} {
		h := newTestHost(t)
		h.upgraded(peerID, thirdID)
		h.mustAttach("plain", "foo", "/ns/plain")
		h.publishAs(thirdID, peerEndpoint{id: "q", ip: "10.6.1.5", attached: true}, peerEndpoint{id: "r", ip: "10.6.255.5", attached: true})
		h.converge()
		h.publishAs(peerID, peerEndpoint{id: "p", ip: "10.6.0.20", attached: true, allowed: []string{allowed}})
		h.converge()
		h.publishAs(thirdID, peerEndpoint{id: "q", ip: "10.6.1.5", attached: true}, peerEndpoint{id: "r", ip: "10.6.255.5", attached: true},
			peerEndpoint{id: "new1", ip: "10.6.1.6", attached: true}, peerEndpoint{id: "new2", ip: "10.6.0.30", attached: true}, peerEndpoint{id: "new3", ip: "10.6.255.6", attached: true})
		h.converge()
		for _, ip := range []string{"10.6.1.5", "10.6.1.6", "10.6.0.30", "10.6.255.6", "10.6.0.20"} {
			if !strings.Contains(h.remotesNow()+";", ip) {
				t.Errorf("%s: %s is not reached: %s; %q", allowed, ip, h.remotesNow(), h.contests.problems())
			}
		}
		r, _ := h.view.record("foo")
		if got := slices.Contains(h.poolToChoose(r, nil).Avoid, netip.MustParsePrefix(allowed)); got != avoided {
			t.Errorf("%s: avoided: %t", allowed, got)
		}
	}
}

// A permission that was not in force does not come into force before the address that
// it covers is free.
func TestPermissionComesIntoForce(t *testing.T) {
	h := newTestHost(t)
	h.upgraded(peerID, thirdID)
	h.mustAttach("plain", "foo", "/ns/plain")
	h.publishAs(thirdID, peerEndpoint{id: "q", ip: "10.6.1.5", attached: true})
	h.converge()
	h.publishAs(peerID, peerEndpoint{id: "p", ip: "10.6.0.20", attached: true, allowed: []string{"10.6.1.0/24"}})
	h.converge()
	h.publishAs(thirdID)
	h.converge()
	h.publishAs(thirdID, peerEndpoint{id: "q", ip: "10.6.1.5", attached: true})
	h.converge()
	if got := h.remotesNow(); got != "10.6.0.20 10.6.1.0/24" {
		t.Errorf("programmed: %s", got)
	}
}

// The first decision of an agent's life follows one rule for its own endpoints and for
// those of other hosts: own addresses stand before allowed ones.
func TestRestartDecidesAlike(t *testing.T) {
	h := newTestHost(t)
	h.upgraded(peerID, thirdID)
	if _, err := h.attachAllowed("here", "10.6.0.10", false, "10.6.0.200"); err != nil {
		t.Fatal(err)
	}
	h.publishAs(peerID, peerEndpoint{id: "p", ip: "10.6.0.20", attached: true, allowed: []string{"10.6.0.201/32"}})
	h.converge()
	h.publishAs(thirdID, peerEndpoint{id: "q", ip: "10.6.0.200", attached: true}, peerEndpoint{id: "r", ip: "10.6.0.201", attached: true})
	h.converge()
	if got, here := h.remotesNow(), h.allowedHere("10.6.0.10"); got != "10.6.0.20 10.6.0.201/32" || here != "10.6.0.200" {
		t.Errorf("programmed: %s; here %s", got, here)
	}
	h.start()
	h.converge()
	// The permission of the remote endpoint is left to package ovs, which drops it.
	if got, here := h.remotesNow(), h.allowedHere("10.6.0.10"); got != "10.6.0.20 10.6.0.201/32; 10.6.0.200; 10.6.0.201" || here != "" {
		t.Errorf("after a restart: %s; here %s", got, here)
	}
}

// BenchmarkForwardingElsewhere measures one run over a network with one endpoint, while
// 100,000 endpoints are on a network that this host does not use.
func BenchmarkForwardingElsewhere(b *testing.B) {
	h := newTestHost(b)
	h.manyHosts(500)
	h.mustAttach("c1", "foo", "/ns/1")
	snap := state.Snapshot{Index: 1}
	for i := range 500 {
		var list []string
		for j := range 200 {
			ip := netip.AddrFrom4([4]byte{10, 7, byte(10 + (i*200+j)>>8), byte(i*200 + j)})
			list = append(list, fmt.Sprintf(`{"id":"e%d-%d","ip":%q,"mac":%q,"ifname":"eth0","source":"docker","attached":true}`, i, j, ip, macOf(ip)))
		}
		value := fmt.Appendf(nil, `{"version":1,"endpoints":[%s]}`, strings.Join(list, ","))
		snap.Entries = append(snap.Entries, state.Entry{Key: network.EndpointsKey("bar", hostID(i)), Version: 1, Value: value})
	}
	if _, errs := h.view.set(partEndpoints, snap); len(errs) > 0 {
		b.Fatal(errs)
	}
	b.ReportAllocs()
	for b.Loop() {
		h.forwardingState()
	}
}
