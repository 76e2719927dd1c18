package agent

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/socketplane/socketplane/agent/api"
)

// TestBoundsOfAList: what one host's list has beyond the bounds is not used here, whatever
// the order of the list. Status says so, and the endpoints are reached as before.
func TestBoundsOfAList(t *testing.T) {
	h := newTestHost(t)
	h.upgraded(peerID)
	h.allowed.Routes = []netip.Prefix{netip.MustParsePrefix("10.96.0.0/11")}
	h.start()
	h.converge()
	h.mustAttach("c1", "foo", "/ns/1")
	var list []peerEndpoint
	for i := range 40 {
		p := peerEndpoint{id: fmt.Sprintf("p%02d", i), ip: fmt.Sprintf("10.6.1.%d", i+1), attached: true}
		for j := range 14 {
			p.allowed = append(p.allowed, fmt.Sprintf("10.6.%d.%d/32", 100+i, j+1))
		}
		p.allowed = append(p.allowed, fmt.Sprintf("10.%d.0.0/16", 97+i%30))
		for j := range 8 {
			p.routes = append(p.routes, fmt.Sprintf("10.%d.%d.%d/32", 97+i%30, i, j))
		}
		list = append(list, p)
	}
	used := func() string {
		h.publishAs(peerID, list...)
		h.converge()
		allowed, ids := 0, []string{}
		for _, m := range h.segment().Remote {
			if allowed += len(m.Allowed); len(m.Allowed) > 0 {
				ids = append(ids, m.IP.String())
			}
		}
		if n := len(h.segment().Remote); n != len(list) {
			t.Errorf("%d endpoints of %d are reached", n, len(list))
		}
		if allowed > maxHostAllowed || len(h.kernelRoutes("foo")) > maxHostRoutes || allowed == 0 || len(h.kernelRoutes("foo")) == 0 {
			t.Errorf("%d allowed addresses and %d routes are used", allowed, len(h.kernelRoutes("foo")))
		}
		return fmt.Sprint(allowed, ids)
	}
	first := used()
	h.named("foo", "h2", "256 allowed", "64 routes", "344 allowed")
	slices.Reverse(list)
	if again := used(); again != first {
		t.Errorf("in another order: %s, not %s", again, first)
	}
	list = list[:1]
	used()
	h.well()
}

// TestBoundsHere: this host refuses what the others would not use.
func TestBoundsHere(t *testing.T) {
	h := newTestHost(t)
	h.upgraded(peerID)
	h.allowed.Routes = []netip.Prefix{netip.MustParsePrefix("10.96.0.0/11")}
	h.start()
	h.converge()
	attach := func(i int) error {
		allow := []string{fmt.Sprintf("10.%d.0.0/16", 97+i)}
		for j := range 15 {
			allow = append(allow, fmt.Sprintf("10.6.%d.%d", 100+i, j+1))
		}
		_, err := h.attachAllowed(fmt.Sprintf("c%d", i), fmt.Sprintf("10.6.1.%d", i+1), true, allow...)
		return err
	}
	for i := range 16 {
		if err := attach(i); err != nil {
			t.Fatal(err)
		}
	}
	wantCode(t, attach(16), api.CodeExhausted, "256", "this host")
	route := func(i, n int) error {
		var list []string
		for j := range n {
			list = append(list, fmt.Sprintf("10.%d.%d.0/24", 97+i, j))
		}
		_, err := h.SetRoutes(t.Context(), fmt.Sprintf("c%d", i), list)
		return err
	}
	for i := range 4 {
		if err := route(i, 16); err != nil {
			t.Fatal(err)
		}
	}
	wantCode(t, route(4, 1), api.CodeExhausted, "64", "this host")
	if err := route(0, 15); err != nil {
		t.Errorf("one less: %v", err)
	}
	if err := h.Detach(t.Context(), "c0"); err != nil {
		t.Fatal(err)
	}
}
