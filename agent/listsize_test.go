package agent

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/agent/stored"
)

// forge writes a list of this host with n endpoints that hold addresses only, each with
// unknown members of the given size.
func (h *testHost) forge(n, unknown int, source api.Source) {
	h.t.Helper()
	var list []endpoint
	for i := range n {
		ip := netip.AddrFrom4([4]byte{10, 6, byte(1 + i>>8), byte(i)})
		ep := endpoint{ID: fmt.Sprintf("bogus%05d", i), IP: ip, MAC: macOf(ip), IfName: "eth0", Source: source}
		if unknown > 0 {
			ep.Unknown = stored.Unknown(fmt.Sprintf(`"later":%q`, strings.Repeat("x", unknown)))
		}
		list = append(list, ep)
	}
	value, err := encodeEndpoints(list, "")
	if err != nil {
		h.t.Fatal(err)
	}
	if len(value) > state.MaxValue {
		h.t.Fatalf("the forged list has %d bytes", len(value))
	}
	h.put(network.EndpointsKey("foo", selfID), string(value))
}

func (h *testHost) listSize() int {
	h.t.Helper()
	h.settle()
	e, err := h.store.Get(h.t.Context(), network.EndpointsKey("foo", selfID))
	if err != nil {
		h.t.Fatal(err)
	}
	return len(e.Value)
}

// TestListFilledWhileDown: somebody writes this host's list while the agent is down and
// fills it with members of a later release. New containers start all the same.
func TestListFilledWhileDown(t *testing.T) {
	h := newTestHost(t)
	h.forge(64, 8000, api.SourceCNI)
	h.start()
	h.converge()
	h.mustAttach("c1", "foo", "/ns/1")
	h.converge()
	if n := h.listSize(); n > maxListUnknown+64*300 {
		t.Errorf("the list still has %d bytes", n)
	}
	if _, ok := h.table.get("bogus00063"); !ok { // its owner may still come for it
		t.Error("an endpoint of CNI is released")
	}
	h.well()
}

// TestReservedWithoutInterface: what only `connect` and the API of 2015 could have come
// back for is released at the start.
func TestReservedWithoutInterface(t *testing.T) {
	for source, stays := range map[api.Source]bool{
		api.SourceConnect: false, api.SourceLegacy: false, api.SourceCNI: true, api.SourceNetavark: true, api.SourceDriver: true, api.SourceDocker: true,
	} {
		h := newTestHost(t)
		h.forge(3, 0, source)
		h.start()
		h.converge()
		h.converge()
		if _, ok := h.table.get("bogus00001"); ok != stays {
			t.Errorf("%s: still there: %t", source, ok)
		}
	}
}

// TestFullList: a list that is nearly full is named in Status, and a full one says so to
// who adds to it.
func TestFullList(t *testing.T) {
	h := newTestHost(t)
	h.forge(4600, 0, api.SourceCNI)
	h.start()
	h.converge()
	h.named("foo", "nearly full", "524288", "4600 endpoints only hold an address")
	var err error
	for i := 0; err == nil && i < 1000; i++ {
		_, err = h.Reserve(t.Context(), api.ReserveRequest{ID: fmt.Sprintf("%064d", i), ContainerID: fmt.Sprintf("%064d", i+1), ContainerName: strings.Repeat("n", 250), Network: "foo", Source: api.SourceCNI})
	}
	wantCode(t, err, api.CodeExhausted, "foo", "is full", "524288", "socketplane info --stopped")
	h.settle()
	before := h.listSize()
	if err := h.Release(t.Context(), "bogus00001"); err != nil {
		t.Fatal(err)
	}
	if h.listSize() >= before {
		t.Error("nothing can be removed from a full list")
	}
}
