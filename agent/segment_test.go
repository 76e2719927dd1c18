package agent

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/link"
	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/ovs"
)

// hasGateway says whether a network's gateway is on the bridge.
func (h *testHost) hasGateway(networkID string) bool {
	ports, err := h.sw.Ports(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	return slices.ContainsFunc(ports, func(p ovs.Port) bool { return p.Name == link.GatewayName(networkID) })
}

// TestReservedIsReady: what Reserve has made ready is ready still when the container
// starts, whatever passes of converge come in between. One that is not started keeps
// it for a while only.
func TestReservedIsReady(t *testing.T) {
	h := newTestHost(t)
	h.standby = standbyTime
	empty := h.sw.State()
	if _, err := h.Reserve(t.Context(), api.ReserveRequest{ID: "c1", Network: "foo", Source: api.SourceDocker}); err != nil {
		t.Fatal(err)
	}
	h.settle()
	for range 3 {
		h.converge()
	}
	if !h.hasGateway("foo") {
		t.Fatal("a pass has taken the gateway away")
	}
	h.calls.Reset()
	h.mustAttach("c1", "", "/ns/1")
	if n := len(slices.DeleteFunc(h.calls.Names(), func(name string) bool { return name != "Switch.AddPort" })); n != 1 {
		t.Errorf("the attach made %d ports, want the endpoint's alone", n)
	}
	if err := h.Release(t.Context(), "c1"); err != nil {
		t.Fatal(err)
	}
	h.settle()

	if _, err := h.Reserve(t.Context(), api.ReserveRequest{ID: "c2", Network: "foo", Source: api.SourceDocker}); err != nil {
		t.Fatal(err)
	}
	h.settle()
	l, _ := h.table.get("c2")
	l.since = time.Now().Add(-standbyTime)
	h.table.put(l)
	h.converge()
	if h.hasGateway("foo") {
		t.Error("a container that is not started keeps the gateway")
	}
	if err := h.Release(t.Context(), "c2"); err != nil {
		t.Fatal(err)
	}
	h.settle()
	h.converge()
	if got := h.sw.State(); !slices.Equal(got, empty) {
		t.Errorf("left: %q, want %q", got, empty)
	}
}

// TestReservedIsReleased: what Reserve has made ready goes with the endpoint, flows
// too, without a pass of converge.
func TestReservedIsReleased(t *testing.T) {
	h := newTestHost(t)
	h.standby = standbyTime
	empty := h.whole()
	if _, err := h.Reserve(t.Context(), api.ReserveRequest{ID: "c1", Network: "foo", Source: api.SourceDocker}); err != nil {
		t.Fatal(err)
	}
	h.settle()
	h.converge() // programs the network's flows
	if err := h.Release(t.Context(), "c1"); err != nil {
		t.Fatal(err)
	}
	h.wantWhole("released", empty)
}

// TestOlderRecord: who comes late with what a network was does not undo what it is.
func TestOlderRecord(t *testing.T) {
	record := func(version uint64, subnet string, metadata bool) network.Record {
		p := netip.MustParsePrefix(subnet)
		return network.Record{ID: "foo", Subnet: p, Gateway: p.Addr().Next(), VLAN: 1, VNI: 10001, AllowMetadata: metadata, Version: version}
	}
	older, newer := record(5, "10.6.0.0/16", true), record(9, "10.9.0.0/16", false)
	for name, first := range map[string]string{"a keeper": keeperPrefix + "1", "an endpoint": "c1"} {
		t.Run(name, func(t *testing.T) {
			s := newSegments()
			s.enter(newer, first)
			s.setPort("foo", 7)
			if port := s.enter(older, "late"); port != 7 {
				t.Errorf("the gateway's port is %d, want 7", port)
			}
			if got, _ := s.record("foo"); got != newer {
				t.Errorf("it is %+v, want %+v", got, newer)
			}
			if !slices.Equal(s.users()["foo"], []string{first, "late"}) {
				t.Errorf("on it are %v", s.users())
			}
			// A newer one is followed as before: an endpoint keeps what it is programmed with.
			again := record(11, "10.11.0.0/16", true)
			s.exit("foo", "late")
			s.enter(again, "next")
			want := again
			if first == "c1" {
				want.Subnet, want.Gateway = newer.Subnet, newer.Gateway
			}
			if got, _ := s.record("foo"); got != want {
				t.Errorf("it is %+v, want %+v", got, want)
			}
		})
	}
	// A store that began anew counts from the start: not for ever.
	s := newSegments()
	s.enter(newer, keeperPrefix+"1")
	s.byID["foo"].seen = time.Now().Add(-freshFor)
	s.enter(older, "late")
	if got, _ := s.record("foo"); got != older {
		t.Errorf("after a minute it is %+v, want %+v", got, older)
	}
}
