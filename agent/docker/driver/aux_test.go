package driver

import (
	"context"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/docker"
	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/agent/state/statetest"
)

// TestAuxAddress: Docker asks for a network's auxiliary addresses before it makes the
// network; the cluster's network then keeps them from its endpoints.
func TestAuxAddress(t *testing.T) {
	catalog := network.New(network.Config{Store: statetest.New(), Host: "h1"})
	a := &agent{}
	d := newTestDriver(nil)
	d.Service = choosing{a, catalog}
	ask := func(method, body, want string) {
		t.Helper()
		status, answer := call(t, d.Handler(), method, body)
		got, _ := answer["Address"].(string)
		if said, _ := answer["Err"].(string); status != http.StatusOK {
			got = said
		}
		if !strings.Contains(got, want) {
			t.Errorf("%s %s: %d %v, want %s", method, body, status, answer, want)
		}
	}
	ask("IpamDriver.RequestAddress", `{"PoolID":"10.6.0.0/24","Address":"10.6.0.2"}`, "no network has subnet")
	ask("IpamDriver.RequestPool", `{"Pool":"10.6.0.0/24"}`, "")
	ask("IpamDriver.RequestAddress", `{"PoolID":"10.6.0.0/24","Options":{"RequestAddressType":"com.docker.network.gateway"}}`, "10.6.0.1/24")
	ask("IpamDriver.RequestAddress", `{"PoolID":"10.6.0.0/24","Address":"10.6.0.2"}`, "10.6.0.2/24")
	ask("IpamDriver.RequestAddress", `{"PoolID":"10.6.0.0/24","Address":"10.6.0.255"}`, "broadcast")
	ask("IpamDriver.RequestAddress", `{"PoolID":"10.6.0.0/24","Address":"10.7.0.2"}`, "not in")
	ask("NetworkDriver.CreateNetwork", `{"NetworkID":"n1","IPv4Data":[{`+aPool+`,"AuxAddresses":{"router":"10.6.0.2/24"}}]}`, "")
	w, ok := d.known.awaited("n1")
	aux := map[string]netip.Addr{"router": netip.MustParseAddr("10.6.0.2")}
	if !ok || !maps.Equal(w.given.Aux, aux) {
		t.Fatalf("%+v", w)
	}
	// A container on it waits until the cluster has the network.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.requestAddress(ctx, addressRequest{PoolID: "10.6.0.0/24", Address: "10.6.0.9"}); err == nil {
		t.Error("an address of a network that has no name yet")
	}
	if err := d.named(t.Context(), nil, docker.Network{ID: "n1", Name: "web", Aux: aux, Labels: map[string]string{"huge": strings.Repeat("x", 1<<16)}}, w); err != nil {
		t.Fatal(err)
	}
	spec, err := catalog.DockerSpec(t.Context(), "web", w.subnet)
	if err != nil || !maps.Equal(spec.Aux, aux) {
		t.Errorf("%+v, %v", spec, err)
	}
	ask("IpamDriver.ReleaseAddress", `{"PoolID":"10.6.0.0/24","Address":"10.6.0.2"}`, "")

	// Docker here makes the network of one that is there, as on every other host.
	a.taken, a.spec = "10.6.0.2", spec
	ask("IpamDriver.RequestAddress", `{"PoolID":"10.6.0.0/24","Address":"10.6.0.2"}`, "10.6.0.2/24")
	if d.kept.asks[netip.MustParsePrefix("10.6.0.2/24")] {
		t.Error("it is kept as if a container had asked for it")
	}
	a.spec = api.DockerSpec{}
	ask("IpamDriver.RequestAddress", `{"PoolID":"10.6.0.0/24","Address":"10.6.0.2"}`, "is taken")
}

// TestAuxElsewhere: the Docker network on another host has the same auxiliary
// addresses, so that Compose takes it for its own.
func TestAuxElsewhere(t *testing.T) {
	aux := map[string]netip.Addr{"router": netip.MustParseAddr("10.6.0.2")}
	n := aNetwork("web", "10.6.0.0/24")
	n.ByDocker = true
	d := newTestDriver(&agent{networks: []api.Network{n}, spec: api.DockerSpec{Aux: aux}})
	spec, err := d.spec(t.Context(), n)
	if err != nil || !maps.Equal(spec.Aux, aux) {
		t.Errorf("%+v, %v", spec, err)
	}
	there := &dockerd{networks: []map[string]any{}}
	if _, err := there.engine(t).CreateNetwork(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	if want := `make web map[router:10.6.0.2]`; !slices.Contains(there.asked, want) {
		t.Errorf("docker was asked %q, want %q", there.asked, want)
	}
}
