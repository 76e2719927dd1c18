package cli

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/socketplane/socketplane/agent/cluster"
	"github.com/socketplane/socketplane/agent/state/statetest"
)

// TestHostRoutes: a route is told by its host's name, and two hosts of one name apart.
func TestHostRoutes(t *testing.T) {
	store := statetest.New()
	ids := []string{"11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222", "33333333-3333-4333-8333-333333333333"}
	for i, name := range []string{"h1", "h1", "h3"} {
		record := fmt.Sprintf(`{"version":1,"id":%q,"name":%q,"vtep":"192.0.2.%d","underlay_mtu":1500,"routes":["10.7%d.0.0/16"],"agent":"","datapath":"netdev"}`, ids[i], name, i+1, i)
		if _, err := store.CompareAndSet(t.Context(), cluster.HostsPrefix+ids[i], []byte(record), 0); err != nil {
			t.Fatal(err)
		}
	}
	self := func() (cluster.Host, error) {
		return cluster.Host{ID: ids[2], Name: "h3", Routes: []netip.Prefix{netip.MustParsePrefix("10.79.0.0/16")}}, nil
	}
	routes, err := hostRoutes(store, self)(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range routes {
		got = append(got, fmt.Sprint(r.Host, " ", r.Prefix))
	}
	want := []string{"h1 (11111111) 10.70.0.0/16", "h1 (22222222) 10.71.0.0/16", "h3 10.72.0.0/16", "h3 10.79.0.0/16"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
