package agent

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/socketplane/socketplane/agent/api"
)

// TestHoldFrom: the address of a container that is stopped passes to the hold of
// its next start, and was never free meanwhile.
func TestHoldFrom(t *testing.T) {
	h := newTestHost(t)
	empty := h.whole()
	h.mustHold("10.6.0.9")
	handOver(t, h, "e1", "10.6.0.9")
	from := func(id, ip string) error {
		_, err := h.Hold(t.Context(), api.HoldRequest{Network: "foo", IP: ip, From: id})
		return err
	}
	wantCode(t, from("e1", "10.6.0.9"), api.CodeConflict, "taken") // it runs
	if err := h.Detach(t.Context(), "e1"); err != nil {
		t.Fatal(err)
	}
	h.settle()
	wantCode(t, from("../e", "10.6.0.9"), api.CodeInvalid)
	if err := from("e1", "10.6.0.9"); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Endpoint(t.Context(), "e1"); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("the endpoint of the stopped container: %v", err)
	}
	handOver(t, h, "e2", "10.6.0.9")
	if err := h.Release(t.Context(), "e2"); err != nil {
		t.Fatal(err)
	}
	h.settle() // the gateway goes a little later
	h.wantWhole("given back", empty)

	// What another door made is not Docker's to take.
	h.mustAttach("c1", "foo", "/ns/c1")
	c1, err := h.Endpoint(t.Context(), "c1")
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Detach(t.Context(), "c1"); err != nil {
		t.Fatal(err)
	}
	h.settle()
	wantCode(t, from("c1", c1.IP.String()), api.CodeConflict, "taken")
}

// TestHoldFromLeaksNothing: whatever fails while an address passes over, it is a
// hold's that is known, the endpoint's, or free; never one's that nobody knows.
func TestHoldFromLeaksNothing(t *testing.T) {
	for n := 1; ; n++ {
		failed := false
		for _, applied := range []bool{false, true} {
			h := newTestHost(t)
			h.mustHold("10.6.0.9")
			handOver(t, h, "e1", "10.6.0.9")
			if err := h.Detach(t.Context(), "e1"); err != nil {
				t.Fatal(err)
			}
			h.settle()
			h.converge()
			h.segments.enter(h.recordHere("foo"), "e1") // as one that was made ready again, and not started
			h.calls.Reset()
			h.calls.FailAt(n, applied)
			_, err := h.Hold(t.Context(), api.HoldRequest{Network: "foo", IP: "10.6.0.9", From: "e1"})
			h.settle()
			h.calls.Reset()
			failed = failed || err != nil
			for range 2 {
				h.converge()
			}
			list, listErr := h.Addresses.List(t.Context(), h.recordHere("foo").Subnet)
			if listErr != nil {
				t.Fatal(listErr)
			}
			_, held := h.holds.find("foo", netip.MustParseAddr("10.6.0.9"))
			if held != (err == nil) {
				t.Errorf("call %d failed, applied %t: %v, and it is held: %t", n, applied, err, held)
			}
			for _, al := range list {
				_, known := h.holds.byOwner[al.Owner]
				_, here := h.table.get(strings.TrimPrefix(al.Owner, h.id+"/"))
				if !known && !here {
					t.Errorf("call %d failed, applied %t: %v, and %s is of %s, whom nobody knows", n, applied, err, al.Addr, al.Owner)
				}
			}
		}
		if !failed && n > 20 {
			return
		}
	}
}

// TestHoldFromNeverRun: the address of a container that was made and has never run
// passes to the hold of its first start.
func TestHoldFromNeverRun(t *testing.T) {
	h := newTestHost(t)
	empty := h.whole()
	h.mustHold("10.6.0.9")
	reserve := api.ReserveRequest{ID: "created-1", Network: "foo", IP: "10.6.0.9", Source: api.SourceDriver, ContainerID: "c1", ContainerName: "new"}
	for range 2 {
		if _, err := h.Reserve(t.Context(), reserve); err != nil {
			t.Fatal(err)
		}
	}
	h.settle()
	h.converge() // nobody counts in who has no interface
	if _, err := h.Hold(t.Context(), api.HoldRequest{Network: "foo", IP: "10.6.0.9", From: "created-1"}); err != nil {
		t.Fatal(err)
	}
	handOver(t, h, "e1", "10.6.0.9")
	if _, err := h.Endpoint(t.Context(), "created-1"); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("what kept the address: %v", err)
	}
	if err := h.Release(t.Context(), "e1"); err != nil {
		t.Fatal(err)
	}
	h.settle()
	h.converge()
	h.wantWhole("given back", empty)
}
