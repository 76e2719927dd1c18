package driver

import (
	"context"
	"maps"
	"testing"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/docker"
)

// TestSpec: the Docker network that the agent makes has the options and labels that
// Docker's user gave, no other option, and says to nobody but us who made it.
func TestSpec(t *testing.T) {
	for name, tt := range map[string]struct {
		network  api.Network
		given    api.DockerSpec
		options  map[string]string
		labels   map[string]string
		standing string
	}{
		"not by docker": {
			aNetwork("web", "10.6.0.0/24"),
			api.DockerSpec{Labels: map[string]string{"x": "y"}},
			map[string]string{docker.OptionNetwork: "web"},
			nil, "web",
		},
		"the default": {aNetwork("default", "10.1.0.0/16"), api.DockerSpec{}, map[string]string{docker.OptionNetwork: "default"}, nil, "default"},
		"compose's":   {byDocker("web"), api.DockerSpec{Labels: map[string]string{"com.docker.compose.network": "web"}}, nil, map[string]string{"com.docker.compose.network": "web"}, "web"},
		"named": {
			byDocker("web"),
			api.DockerSpec{Options: map[string]string{docker.OptionNetwork: "web", optionMTU: "1450"}},
			map[string]string{docker.OptionNetwork: "web", optionMTU: "1450"},
			nil, "web",
		},
		"options that are not honoured here": {
			byDocker("web"),
			api.DockerSpec{Options: map[string]string{"encrypted": "true", optionMTU: "9000"}, Labels: map[string]string{"encrypted": "true"}},
			nil,
			map[string]string{"encrypted": "true"},
			"web",
		},
		"named wrongly in the store": {
			byDocker("web"),
			api.DockerSpec{Options: map[string]string{docker.OptionNetwork: "other"}},
			map[string]string{docker.OptionNetwork: "web"},
			nil, "web",
		},
	} {
		tt.network.MTU = 1450
		d := newTestDriver(&agent{spec: tt.given, networks: []api.Network{tt.network}})
		spec, err := d.spec(t.Context(), tt.network)
		if err != nil {
			t.Fatal(err)
		}
		generic := map[string]any{}
		for k, v := range spec.Options {
			generic[k] = v
		}
		if err := d.checkNetworkOptions(t.Context(), generic); err != nil {
			t.Errorf("%s: Docker's call for it would be refused: %v", name, err)
		}
		labels := map[string]string{docker.LabelAgent: "true"}
		maps.Copy(labels, tt.labels)
		if !maps.Equal(spec.Options, tt.options) || !maps.Equal(spec.Labels, labels) {
			t.Errorf("%s: %+v", name, spec)
		}
		if got := (docker.Network{Name: spec.Name, Options: spec.Options}).StandsFor(); got != tt.standing {
			t.Errorf("%s: it stands for %q", name, got)
		}
	}
}

func byDocker(id string) api.Network {
	n := aNetwork(id, "10.6.0.0/24")
	n.ByDocker = true
	return n
}

// given notes what Docker's user gave.
type given struct {
	only
	got *api.DockerSpec
}

func (g *given) CreateNetwork(ctx context.Context, req api.CreateNetworkRequest) (api.Network, error) {
	g.got = req.Docker
	return g.only.CreateNetwork(ctx, req)
}

// TestGiven: what Docker's user gave a network reaches the cluster with it, whether
// Docker's event or its list tells of the network.
func TestGiven(t *testing.T) {
	made := dockersNetwork("n1", "web", "10.6.0.0/24", map[string]string{"a": "b"})
	made["Labels"] = map[string]string{"team": "shop"}
	there := &dockerd{networks: []map[string]any{made}}
	engine := there.engine(t)
	for name, tell := range map[string]func(*Driver) error{
		"event": func(d *Driver) error {
			return d.Event(t.Context(), engine, docker.Event{Kind: docker.NetworkMade, ID: "n1", Name: "web"})
		},
		"list": func(d *Driver) error { return d.sync(t.Context(), engine) },
	} {
		d := newTestDriver(nil)
		g := &given{only: only{&agent{}}}
		d.Service = g
		if err := d.known.await("n1", wish{subnet: aNetwork("web", "10.6.0.0/24").Subnet}); err != nil {
			t.Fatal(err)
		}
		if err := tell(d); err != nil {
			t.Fatal(name, err)
		}
		if g.got == nil || !maps.Equal(g.got.Options, map[string]string{"a": "b"}) || !maps.Equal(g.got.Labels, map[string]string{"team": "shop"}) {
			t.Errorf("%s: %+v", name, g.got)
		}
	}
}
