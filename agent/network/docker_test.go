package network_test

import (
	"maps"
	"strings"
	"testing"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/agent/state"
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
