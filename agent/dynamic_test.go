package agent

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/cluster"
	"github.com/socketplane/socketplane/agent/network"
)

// TestDynamicRange: whoever asks for no address gets one of the range, by whatever door
// and also after a restart; by name, any of the subnet can be had.
func TestDynamicRange(t *testing.T) {
	h := newTestHost(t)
	h.upgraded(peerID)
	made, err := h.CreateNetwork(t.Context(), api.CreateNetworkRequest{ID: "lab", Subnet: "10.8.0.0/24", Dynamic: "10.8.0.192/29"})
	part := netip.MustParsePrefix("10.8.0.192/29")
	if err != nil || made.Dynamic != part {
		t.Fatalf("%+v, %v", made, err)
	}
	if again, err := h.CreateNetwork(t.Context(), api.CreateNetworkRequest{ID: "lab", Subnet: "10.8.0.0/24"}); err != nil || again.Dynamic != part {
		t.Errorf("without the range: %+v, %v", again, err)
	}
	_, err = h.CreateNetwork(t.Context(), api.CreateNetworkRequest{ID: "lab", Subnet: "10.8.0.0/24", Dynamic: "10.8.0.0/25"})
	wantCode(t, err, api.CodeConflict, "gives dynamic addresses from 10.8.0.192/29")
	seen := map[netip.Addr]bool{}
	dynamic := func(how string, ip netip.Addr, err error) {
		t.Helper()
		if err != nil || !part.Contains(ip) || seen[ip] {
			t.Errorf("%s: %s, %v", how, ip, err)
		}
		seen[ip] = true
	}
	use := func(life int) {
		t.Helper()
		e, err := h.Reserve(t.Context(), api.ReserveRequest{ID: fmt.Sprint("reserved", life), Network: "lab", Source: api.SourceDocker})
		dynamic("reserve", e.IP, err)
		e, err = h.Attach(t.Context(), api.AttachRequest{ID: fmt.Sprint("attached", life), Network: "lab", NetNS: fmt.Sprint("/ns/", life), Source: api.SourceConnect})
		dynamic("attach", e.IP, err)
		held, err := h.Hold(t.Context(), api.HoldRequest{Network: "lab"})
		dynamic("hold", held.IP, err)
	}
	use(1)
	held, err := h.Hold(t.Context(), api.HoldRequest{Network: "lab", Range: "10.8.0.128/25"})
	dynamic("hold within a wider range", held.IP, err)
	_, err = h.Hold(t.Context(), api.HoldRequest{Network: "lab", Range: "10.8.0.0/25"})
	wantCode(t, err, api.CodeInvalid, "outside of 10.8.0.192/29")
	if _, err := h.Reserve(t.Context(), api.ReserveRequest{ID: "named", Network: "lab", IP: "10.8.0.9"}); err != nil {
		t.Errorf("by name: %v", err)
	}
	h.start() // what was held is given back
	h.converge()
	clear(seen)
	for _, e := range []string{"reserved1", "attached1"} {
		got, err := h.Endpoint(t.Context(), e)
		dynamic("after a restart, "+e, got.IP, err)
	}
	use(2)
	for i := len(seen); i < 8; i++ {
		e, err := h.Reserve(t.Context(), api.ReserveRequest{ID: fmt.Sprint("more", i), Network: "lab"})
		dynamic("more", e.IP, err)
	}
	_, err = h.Reserve(t.Context(), api.ReserveRequest{ID: "too many", Network: "lab"})
	wantCode(t, err, api.CodeInvalid)
	_, err = h.Reserve(t.Context(), api.ReserveRequest{ID: "too-many", Network: "lab"})
	wantCode(t, err, api.CodeExhausted, "range 10.8.0.192/29")
}

// TestDynamicRangeOfAnotherRelease: a host that does not know ranges could not use the
// network; none is made while such a host lives.
func TestDynamicRangeOfAnotherRelease(t *testing.T) {
	h := newTestHost(t)
	req := api.CreateNetworkRequest{ID: "lab", Subnet: "10.8.0.0/24", Dynamic: "10.8.0.128/25"}
	for _, bad := range []api.CreateNetworkRequest{
		{ID: "lab", Dynamic: "10.8.0.128/25"}, {ID: "lab", Subnet: "10.8.0.0/24", Dynamic: "10.9.0.0/25"}, {ID: "lab", Subnet: "10.8.0.0/24", Dynamic: "10.8.0.1/25"},
	} {
		_, err := h.CreateNetwork(t.Context(), bad)
		wantCode(t, err, api.CodeInvalid)
	}
	h.view.mu.Lock()
	h.view.hosts = append([]cluster.Host{}, cluster.Host{ID: peerID, Name: "h2", Alive: true, Version: "old"})
	h.view.mu.Unlock()
	_, err := h.CreateNetwork(t.Context(), req)
	wantCode(t, err, api.CodeConflict, "upgrade it on: h2")
	h.put(network.Key("odd"), `{"version":1,"id":"odd","subnet":"10.9.0.0/24","gateway":"10.9.0.1","vlan":9,"vni":10009,"dynamic":"10.8.0.0/25"}`)
	_, err = h.Network(t.Context(), "odd")
	wantCode(t, err, api.CodeInvalid, "not a part of subnet")
}
