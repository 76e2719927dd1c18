package agent

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/socketplane/socketplane/agent/api"
)

func TestAttachAndDetach(t *testing.T) {
	h := newTestHost(t)
	empty := h.whole()
	e := h.mustAttach("c1", "foo", "/ns/1")
	if e.IP.String() != "10.6.0.2" || e.PrefixLen != 16 || e.MTU != 1450 || !e.Attached || e.Gateway.String() != "10.6.0.1" || e.MAC != "02:42:0a:06:00:02" {
		t.Errorf("got %+v", e)
	}
	attached := h.whole()
	if diff := cmp.Diff(e, h.mustAttach("c1", "foo", "/ns/1"), cmp.Comparer(sameAddr)); diff != "" {
		t.Errorf("the same attach again (-want +got):\n%s", diff)
	}
	h.wantWhole("attached again", attached)

	for range 2 {
		if err := h.Detach(t.Context(), "c1"); err != nil {
			t.Fatal(err)
		}
	}
	h.settle()
	held := h.whole()
	if e, err := h.Endpoint(t.Context(), "c1"); err != nil || e.Attached || e.Port != "" || e.IP.String() != "10.6.0.2" {
		t.Errorf("detached: %+v, %v", e, err)
	}
	// Another namespace, as after a stop and a start.
	if e := h.mustAttach("c1", "", "/ns/2"); e.IP.String() != "10.6.0.2" {
		t.Errorf("attached with %s", e.IP)
	}
	// Moved at once, without a detach between.
	if e := h.mustAttach("c1", "", "/ns/3"); e.IP.String() != "10.6.0.2" {
		t.Errorf("attached with %s", e.IP)
	}
	if err := h.Detach(t.Context(), "c1"); err != nil {
		t.Fatal(err)
	}
	h.settle()
	h.wantWhole("held", held)
	for range 2 {
		if err := h.Release(t.Context(), "c1"); err != nil {
			t.Fatal(err)
		}
	}
	h.wantWhole("released", empty)
	h.converge()
	h.wantWhole("converged", empty)
}

func TestReserve(t *testing.T) {
	h := newTestHost(t)
	empty := h.whole()
	req := api.ReserveRequest{ID: "c1", ContainerName: "web", Network: "foo", IP: "10.6.0.9", Source: api.SourceDocker}
	for range 2 {
		e, err := h.Reserve(t.Context(), req)
		if err != nil || e.IP.String() != "10.6.0.9" || e.Attached {
			t.Fatalf("%+v, %v", e, err)
		}
		h.settle()
	}
	if len(h.nat.State()) != 1 {
		t.Error("the gateway is not made ready")
	}
	h.converge() // a container that is not started keeps no gateway
	if len(h.nat.State()) != 0 {
		t.Error("a gateway that nobody uses stays")
	}
	for what, req := range map[string]struct {
		req  api.ReserveRequest
		code api.Code
		says string
	}{
		"other network":  {api.ReserveRequest{ID: "c1", Network: "bar"}, api.CodeConflict, `on network "foo" already`},
		"other address":  {api.ReserveRequest{ID: "c1", Network: "foo", IP: "10.6.0.8"}, api.CodeConflict, "has address 10.6.0.9"},
		"other source":   {api.ReserveRequest{ID: "c1", Network: "foo", Source: api.SourceConnect}, api.CodeConflict, "socketplane run"},
		"taken":          {api.ReserveRequest{ID: "c2", Network: "foo", IP: "10.6.0.9"}, api.CodeConflict, `network "foo": address 10.6.0.9 is taken by "web" on host "h1"; choose another`},
		"outside":        {api.ReserveRequest{ID: "c2", Network: "foo", IP: "10.7.0.9"}, api.CodeConflict, `network "foo"`},
		"gateway":        {api.ReserveRequest{ID: "c2", Network: "foo", IP: "10.6.0.1"}, api.CodeConflict, "gateway"},
		"no network":     {api.ReserveRequest{ID: "c2", Network: "none"}, api.CodeInvalid, "none"},
		"unknown":        {api.ReserveRequest{ID: "c2", Network: "baz"}, api.CodeNotFound, "network create baz"},
		"bad id":         {api.ReserveRequest{ID: "a;b", Network: "foo"}, api.CodeInvalid, "id"},
		"bad name":       {api.ReserveRequest{ID: "c2", ContainerName: "a\nb", Network: "foo"}, api.CodeInvalid, "name"},
		"bad address":    {api.ReserveRequest{ID: "c2", Network: "foo", IP: "::1"}, api.CodeInvalid, "IPv4"},
		"unknown source": {api.ReserveRequest{ID: "c2", Network: "foo", Source: "x"}, api.CodeInvalid, "source"},
	} {
		t.Run(what, func(t *testing.T) {
			_, err := h.Reserve(t.Context(), req.req)
			wantCode(t, err, req.code, req.says)
		})
	}
	if err := h.Release(t.Context(), "c1"); err != nil {
		t.Fatal(err)
	}
	h.wantWhole("released", empty)
}

func TestSubnetIsFull(t *testing.T) {
	h := newTestHost(t)
	for i := range 5 { // a /29 has 6 hosts, of which one is the gateway
		h.mustAttach(fmt.Sprintf("c%d", i), "bar", fmt.Sprintf("/ns/%d", i))
	}
	full := h.whole()
	_, err := h.Attach(t.Context(), api.AttachRequest{ID: "c9", Network: "bar", NetNS: "/ns/9"})
	wantCode(t, err, api.CodeExhausted, `network "bar"`, "10.7.0.0/29", "remove containers")
	h.wantWhole("refused", full)
	err = h.DeleteNetwork(t.Context(), "bar")
	wantCode(t, err, api.CodeInUse, `5 endpoints on host h1`)
}

func TestAttachRefusesNamespace(t *testing.T) {
	h := newTestHost(t)
	empty := h.whole()
	h.links.Occupy("/ns/2", "eth0")
	for ns, code := range map[string]api.Code{"/tmp/x": api.CodeInvalid, "relative": api.CodeInvalid, "/ns/2": api.CodeConflict} {
		_, err := h.Attach(t.Context(), api.AttachRequest{ID: "c1", Network: "foo", NetNS: ns})
		wantCode(t, err, code)
		h.wantWhole(ns, empty)
	}
	h.mustAttach("c1", "foo", "/ns/1")
	attached := h.whole()
	// What works is left as it is.
	for ns, code := range map[string]api.Code{"/tmp/x": api.CodeInvalid, "/ns/2": api.CodeConflict} {
		_, err := h.Attach(t.Context(), api.AttachRequest{ID: "c1", Network: "foo", NetNS: ns})
		wantCode(t, err, code)
	}
	_, err := h.Attach(t.Context(), api.AttachRequest{ID: "c1", Network: "foo", NetNS: "/ns/1", IfName: "eth7"})
	wantCode(t, err, api.CodeConflict, "eth0")
	h.wantWhole("refused", attached)
	_, err = h.Attach(t.Context(), api.AttachRequest{ID: "c2", NetNS: "/ns/3"})
	wantCode(t, err, api.CodeNotFound, "socketplane run")
}

// TestUndo makes every call of an operation fail in turn, before and after it
// has done its work. What the operation did is then taken back.
func TestUndo(t *testing.T) {
	attach := func(network string) func(context.Context, *testHost) error {
		return func(ctx context.Context, h *testHost) error {
			_, err := h.Attach(ctx, api.AttachRequest{ID: "c1", Network: network, NetNS: "/ns/1", Source: api.SourceDocker})
			return err
		}
	}
	reserve := func(t *testing.T, h *testHost) {
		if _, err := h.Reserve(t.Context(), api.ReserveRequest{ID: "c1", Network: "foo", Source: api.SourceDocker}); err != nil {
			t.Fatal(err)
		}
		h.settle()
		h.converge()
	}
	for _, tt := range []struct {
		name    string
		prepare func(*testing.T, *testHost)
		do      func(context.Context, *testHost) error
	}{
		{"attach", func(*testing.T, *testHost) {}, attach("foo")},
		{"second attach", func(_ *testing.T, h *testHost) { h.mustAttach("c0", "foo", "/ns/0") }, attach("foo")},
		{"attach of held", reserve, attach("")},
		{"reserve", func(*testing.T, *testHost) {}, func(ctx context.Context, h *testHost) error {
			_, err := h.Reserve(ctx, api.ReserveRequest{ID: "c1", Network: "foo", Source: api.SourceDocker})
			h.settle()
			return err
		}},
	} {
		h := newTestHost(t)
		tt.prepare(t, h)
		h.calls.Reset()
		if err := tt.do(t.Context(), h); err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		calls := h.calls.Names()
		h.converge()
		done := h.whole()
		for n := range len(calls) {
			for _, applied := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%d %s applied %t", tt.name, n+1, calls[n], applied), func(t *testing.T) {
					h := newTestHost(t)
					tt.prepare(t, h)
					before := h.whole()
					h.calls.Reset()
					h.calls.FailAt(n+1, applied)
					err := tt.do(t.Context(), h)
					h.settle()
					failed := len(h.calls.Names()) > n
					h.calls.Reset()
					if err != nil && !applied && len(h.table.all()) == len(tableOf(before)) {
						h.wantWhole("taken back at once", before)
					}
					h.converge()
					h.converge()
					if err == nil { // it could do without
						h.wantWhole(fmt.Sprintf("done all the same (failed: %t)", failed), done)
						return
					}
					wantCode(t, err, api.CodeOf(err))
					h.wantWhole(fmt.Sprintf("taken back after %v", err), before)
				})
			}
		}
	}
}

func tableOf(lines []string) []string {
	var table []string
	for _, l := range lines {
		if len(l) > 6 && l[:6] == "table " {
			table = append(table, l)
		}
	}
	return table
}

// TestDetachFails makes every call of a detach and of a release fail in turn:
// the converge loop ends what was begun.
func TestDetachFails(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(context.Context, *testHost) error
	}{
		{"detach", func(ctx context.Context, h *testHost) error { return h.Detach(ctx, "c1") }},
		{"release", func(ctx context.Context, h *testHost) error { return h.Release(ctx, "c1") }},
	} {
		h := newTestHost(t)
		h.mustAttach("c1", "foo", "/ns/1")
		h.calls.Reset()
		if err := tt.do(t.Context(), h); err != nil {
			t.Fatal(err)
		}
		h.settle()
		calls := h.calls.Names()
		h.converge()
		done := h.whole()
		for n := range len(calls) {
			for _, applied := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%d %s applied %t", tt.name, n+1, calls[n], applied), func(t *testing.T) {
					h := newTestHost(t)
					h.mustAttach("c1", "foo", "/ns/1")
					h.calls.Reset()
					h.calls.FailAt(n+1, applied)
					if err := tt.do(t.Context(), h); err != nil {
						wantCode(t, err, api.CodeOf(err))
					}
					h.settle()
					h.calls.Reset()
					h.converge()
					if diff := cmp.Diff(done, h.whole()); diff != "" {
						t.Fatalf("after a pass (-want +got):\n%s", diff)
					}
				})
			}
		}
	}
}

// Who is not root attaches namespaces of his own only; root, and calls that come from
// this process, any.
func TestAttachOwnNamespace(t *testing.T) {
	h := newTestHost(t)
	user := func(uid uint32) context.Context { return api.WithCaller(t.Context(), api.Caller{UID: uid, PID: 1}) }
	attach := func(ctx context.Context, id, path string) error {
		_, err := h.Attach(ctx, api.AttachRequest{ID: id, Network: "foo", NetNS: path})
		return err
	}
	before := h.whole()
	wantCode(t, attach(user(1000), "c1", "/ns/1"), api.CodeForbidden, "another user", "root")
	wantCode(t, attach(user(1000), "c1", "/ns/1001/a"), api.CodeForbidden, "another user")
	wantCode(t, attach(user(^uint32(0)), "c1", "/ns/1"), api.CodeForbidden, "another user")
	if now := h.whole(); !slices.Equal(now, before) {
		t.Errorf("something is left:\n%q\nwant\n%q", now, before)
	}
	for id, err := range map[string]error{
		"c2": attach(user(1000), "c2", "/ns/1000/a"), "c3": attach(user(0), "c3", "/ns/2"), "c4": attach(t.Context(), "c4", "/ns/3"),
	} {
		if err != nil {
			t.Errorf("%s: %v", id, err)
		}
	}
}
