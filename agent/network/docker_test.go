package network_test

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"testing"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/ipam"
)

// TestDockerSpec: what Docker's user gave a network lies beside its record, comes and
// goes with it, and is never taken for another network's.
func TestDockerSpec(t *testing.T) {
	eachStore(t, func(t *testing.T, store state.Store) {
		m := network.New(network.Config{Store: store})
		subnet, key := prefix("10.6.0.0/24"), network.DockersPrefix+"web"
		given := &api.DockerSpec{Options: map[string]string{"a": "b"}, Labels: map[string]string{"com.docker.compose.network": "web"}}
		spec := func() api.DockerSpec {
			t.Helper()
			got, err := m.DockerSpec(t.Context(), "web", subnet)
			if err != nil {
				t.Fatal(err)
			}
			return got
		}
		none := func(when string) {
			t.Helper()
			if got := spec(); len(got.Options)+len(got.Labels) > 0 {
				t.Errorf("%s: %+v", when, got)
			}
		}
		none("before")
		create := func(docker *api.DockerSpec) {
			t.Helper()
			if _, _, err := m.Create(t.Context(), network.Spec{Name: "web", Subnet: subnet, ByDocker: true, Docker: docker}); err != nil {
				t.Fatal(err)
			}
		}
		create(given)
		if got := spec(); !maps.Equal(got.Options, given.Options) || !maps.Equal(got.Labels, given.Labels) {
			t.Errorf("%+v", got)
		}
		create(&api.DockerSpec{Labels: map[string]string{"of": "another host"}}) // it exists, and stays what it is
		if got := spec(); !maps.Equal(got.Labels, given.Labels) {
			t.Errorf("%+v", got)
		}
		if got, err := m.DockerSpec(t.Context(), "web", prefix("10.7.0.0/24")); err != nil || len(got.Labels) > 0 {
			t.Errorf("of another network of the name: %+v %v", got, err)
		}
		old, err := store.Get(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Delete(t.Context(), "web"); err != nil {
			t.Fatal(err)
		}
		if left := keys(t, store); len(left) > 0 {
			t.Errorf("left: %q", left)
		}
		// An older release leaves the key behind.
		set(t, store, key, string(old.Value))
		create(nil)
		none("of a network that was deleted by an older release")
		set(t, store, key, `{"version":1,"subnet":"10.6.0.0/24","labels":{"a\u0000":"b"}}`)
		none("what no host can take over")
		set(t, store, key, `{"version":1,"subnet":"10.6.0.0/24","more":1}`)
		none("what cannot be decoded")
		huge := &api.DockerSpec{Labels: map[string]string{"a": strings.Repeat("x", 5000)}}
		if _, _, err := m.Create(t.Context(), network.Spec{Name: "huge", Docker: huge}); api.CodeOf(err) != api.CodeInvalid {
			t.Errorf("a huge label: %v", err)
		}
	})
}

// TestAux: addresses that Docker's user keeps from a network's endpoints are given to
// nobody, from the moment in which the network is there until it goes.
func TestAux(t *testing.T) {
	eachStore(t, func(t *testing.T, store state.Store) {
		m := onHost(store, "h1")
		aux := func(addrs ...string) *api.DockerSpec {
			spec := &api.DockerSpec{Options: map[string]string{"a": "b"}, Aux: map[string]netip.Addr{}}
			for i, a := range addrs {
				spec.Aux[fmt.Sprint("aux", i)] = netip.MustParseAddr(a)
			}
			return spec
		}
		create := func(docker *api.DockerSpec) error {
			_, _, err := m.Create(t.Context(), network.Spec{Name: "web", Subnet: prefix("10.6.0.0/29"), ByDocker: true, Docker: docker})
			return err
		}
		for _, bad := range []string{"10.6.0.0", "10.6.0.1", "10.6.0.7", "10.7.0.2", "fd00::1"} {
			if err := create(aux("10.6.0.2", bad)); api.CodeOf(err) != api.CodeInvalid || !strings.Contains(err.Error(), "--aux-address") {
				t.Errorf("%s: %v", bad, err)
			}
		}
		if left := keys(t, store); len(left) > 0 {
			t.Fatalf("left by what was refused: %q", left)
		}
		given := aux("10.6.0.2", "10.6.0.4", "10.6.0.4")
		if err := create(given); err != nil {
			t.Fatal(err)
		}
		got, err := m.DockerSpec(t.Context(), "web", prefix("10.6.0.0/29"))
		if err != nil || !maps.Equal(got.Aux, given.Aux) || !maps.Equal(got.Options, given.Options) {
			t.Errorf("%+v, %v", got, err)
		}
		pool := ipam.Pool{Subnet: prefix("10.6.0.0/29"), Gateway: netip.MustParseAddr("10.6.0.1")}
		for i, want := range []string{"10.6.0.3", "10.6.0.5", "10.6.0.6"} {
			if got, err := ipam.New(store, "h2").Allocate(t.Context(), pool, fmt.Sprint("h2/", i)); err != nil || got.String() != want {
				t.Errorf("%s, %v, want %s", got, err, want)
			}
		}
		// The same network on another host.
		for _, same := range []*api.DockerSpec{aux("10.6.0.4"), aux(), nil} {
			if err := create(same); err != nil {
				t.Errorf("%+v: %v", same, err)
			}
		}
		if err := create(aux("10.6.0.5")); !errors.Is(err, network.ErrExists) || !strings.Contains(err.Error(), "does not keep 10.6.0.5") {
			t.Errorf("another address: %v", err)
		}
		if err := m.Delete(t.Context(), "web"); err != nil {
			t.Fatal(err)
		}
		if left := keys(t, store); len(left) > 0 {
			t.Errorf("left: %q", left)
		}
	})
}
