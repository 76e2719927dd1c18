package link

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A gateway's port has the routes to what is behind endpoints, and only those.
func TestGatewayRoutes(t *testing.T) {
	l, c := newLinks(t), here(t)
	name := GatewayName(t.Name())
	addDummy(t, c, "under0", "198.18.0.1/24")
	addTap(t, c, name)
	g := Gateway{
		Name: name, MAC: "02:42:0a:06:00:01", Addr: netip.MustParsePrefix("10.6.0.1/16"),
		MTU: 1450, Source: netip.MustParseAddr("198.18.0.1"), Userspace: true,
	}
	have := func() []string {
		var list []string
		for line := range strings.Lines(ip(t, "route", "show", "dev", name)) {
			if f := strings.Fields(line); len(f) > 2 && f[1] == "via" {
				list = append(list, f[0]+" "+f[2])
				if !strings.Contains(line, "src 198.18.0.1") {
					t.Errorf("route %q has another source", line)
				}
			}
		}
		return list
	}
	a, b := netip.MustParsePrefix("10.98.0.0/24"), netip.MustParsePrefix("10.99.0.0/16")
	via, other := netip.MustParseAddr("10.6.0.10"), netip.MustParseAddr("10.6.0.11")
	for _, step := range []struct {
		routes []Route
		want   []string
	}{
		{nil, nil},
		{[]Route{{a, via}, {b, via}}, []string{"10.98.0.0/24 10.6.0.10", "10.99.0.0/16 10.6.0.10"}},
		{[]Route{{a, via}, {b, via}}, []string{"10.98.0.0/24 10.6.0.10", "10.99.0.0/16 10.6.0.10"}},
		{[]Route{{b, other}}, []string{"10.99.0.0/16 10.6.0.11"}},
		{nil, nil},
	} {
		g.Routes = step.routes
		if err := l.EnsureGateway(t.Context(), g); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(step.want, have()); diff != "" {
			t.Errorf("%v (-want +got):\n%s", step.routes, diff)
		}
	}
	// Routes that may be incomplete add to what is there, and take nothing away.
	for _, routes := range [][]Route{{{a, via}}, nil, {{b, via}}, nil} {
		g.Routes, g.KeepRoutes = routes, true
		if err := l.EnsureGateway(t.Context(), g); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{"10.98.0.0/24 10.6.0.10", "10.99.0.0/16 10.6.0.10"}, have()); diff != "" {
		t.Errorf("kept (-want +got):\n%s", diff)
	}
	g.KeepRoutes = false
	// What somebody took away, or added, is put right.
	g.Routes = []Route{{b, via}}
	if err := l.EnsureGateway(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	ip(t, "route", "del", "10.99.0.0/16")
	ip(t, "route", "add", "10.97.0.0/16", "via", "10.6.0.9", "dev", name, "proto", "static", "src", "198.18.0.1")
	if err := l.EnsureGateway(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"10.99.0.0/16 10.6.0.10"}, have()); diff != "" {
		t.Errorf("put right (-want +got):\n%s", diff)
	}
	for _, bad := range []Route{{netip.MustParsePrefix("0.0.0.0/0"), via}, {netip.MustParsePrefix("10.6.0.0/24"), via}, {a, netip.MustParseAddr("10.7.0.1")}, {netip.Prefix{}, via}} {
		g.Routes = []Route{bad}
		if err := l.EnsureGateway(t.Context(), g); err == nil {
			t.Errorf("%v was taken", bad)
		}
	}
}
