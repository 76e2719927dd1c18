package agent

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/socketplane/socketplane/agent/api"
)

// attachment is an ADD of a runtime that hands a container's ports to each.
func attachment(id, container, network, ns, ifname string, ports ...api.PortMapping) api.AttachRequest {
	return api.AttachRequest{ID: id, ContainerID: container, Network: network, NetNS: ns, IfName: ifname, Ports: ports, Source: api.SourceCNI}
}

func (h *testHost) mustAdd(req api.AttachRequest) api.Endpoint {
	h.t.Helper()
	e, err := h.Attach(h.t.Context(), req)
	if err != nil {
		h.t.Fatalf("attach %s: %v", req.ID, err)
	}
	return e
}

// TestPublishedByTwoEndpoints: one container on two networks with the same
// ports on each: they lead to the first endpoint, which has the default route,
// and to the other when that one goes.
func TestPublishedByTwoEndpoints(t *testing.T) {
	h := newTestHost(t)
	empty := h.whole()
	one := attachment("z-eth0", "c1", "foo", "/ns/1", "eth0", port80, port53)
	two := attachment("a-eth1", "c1", "bar", "/ns/1", "eth1", port80, port53)
	toFirst := []string{"nat 0.0.0.0:8080/tcp to 10.6.0.2:80", "nat 127.0.0.1:5353/udp to 10.6.0.2:53"}
	toSecond := []string{"nat 0.0.0.0:8080/tcp to 10.7.0.2:80", "nat 127.0.0.1:5353/udp to 10.7.0.2:53"}
	shown := func(id string, want ...api.PortMapping) {
		t.Helper()
		e, err := h.Endpoint(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, e.Ports, cmp.Comparer(sameAddr)); diff != "" {
			t.Errorf("%s publishes (-want +got):\n%s", id, diff)
		}
	}
	h.mustAdd(one)
	before := len(h.links.Forgotten())
	if e := h.mustAdd(two); len(e.Ports) != 0 {
		t.Errorf("the second endpoint's answer has ports %v", e.Ports)
	}
	for _, s := range h.links.Forgotten()[before:] {
		if len(s.UDP) != 0 {
			t.Errorf("connections to the first endpoint are forgotten: %v", s)
		}
	}
	check := func(what string) {
		t.Helper()
		t.Log(what)
		h.wantRules("10.6.0.2", toFirst...)
		h.wantRules("10.7.0.2")
		shown("z-eth0", port80, port53)
		shown("a-eth1")
	}
	check("attached")
	h.converge()
	attached := h.whole()
	h.start()
	h.converge()
	check("the agent restarted")
	h.wantWhole("the agent restarted", attached)

	// Of another container it is taken still, whichever endpoint is asked.
	_, err := h.Attach(t.Context(), attachment("x", "c2", "foo", "/ns/2", "eth0", port80))
	wantCode(t, err, api.CodeConflict, "0.0.0.0:8080/tcp", "taken by")
	// And of this one, where it would lead to two ports.
	other := port80
	other.ContainerPort = 81
	_, err = h.Attach(t.Context(), attachment("b-eth2", "c1", "foo", "/ns/1", "eth2", other))
	wantCode(t, err, api.CodeConflict, "0.0.0.0:8080/tcp", "same container")
	h.settle()
	h.converge()
	h.wantWhole("after refusals", attached)

	// The first goes: the other takes over, and keeps it when the first is back.
	if err := h.Release(t.Context(), "z-eth0"); err != nil {
		t.Fatal(err)
	}
	h.settle()
	h.wantRules("10.7.0.2", toSecond...)
	shown("a-eth1", port80, port53)
	again := h.mustAdd(one)
	h.wantRules(again.IP.String())
	h.wantRules("10.7.0.2", toSecond...)
	h.start()
	h.converge()
	h.wantRules("10.7.0.2", toSecond...)
	shown("a-eth1", port80, port53)
	shown("z-eth0")

	// The container ends without a word.
	h.links.RemoveNetNS("/ns/1")
	h.converge()
	h.settle()
	h.converge()
	h.wantWhole("the container ended", empty)
}

// TestTakeOverRoutes: the endpoint to which ports lead from now on is given the
// default route that went with the other: answers leave by it.
func TestTakeOverRoutes(t *testing.T) {
	h := newTestHost(t)
	h.mustAdd(attachment("z-eth0", "c1", "foo", "/ns/1", "eth0", port80))
	h.mustAdd(attachment("a-eth1", "c1", "bar", "/ns/1", "eth1", port80))
	h.calls.Reset()
	if err := h.Release(t.Context(), "z-eth0"); err != nil {
		t.Fatal(err)
	}
	h.settle()
	if !slices.Contains(h.calls.Names(), "Links.Configure") {
		t.Errorf("the endpoint that stays was not configured: %v", h.calls.Names())
	}
}
