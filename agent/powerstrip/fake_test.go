package powerstrip

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"testing"

	"github.com/socketplane/socketplane/agent/api"
)

// fakeNetworks keeps networks as an agent does, as far as the adapter can see.
type fakeNetworks struct {
	mu     sync.Mutex
	all    []api.Network
	made   []api.CreateNetworkRequest
	before func() // runs ahead of a creation: somebody else's
}

func network(name, subnet, gateway string) api.Network {
	return api.Network{ID: name, Subnet: netip.MustParsePrefix(subnet), Gateway: netip.MustParseAddr(gateway)}
}

func (f *fakeNetworks) Networks(context.Context) ([]api.Network, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]api.Network(nil), f.all...), nil
}

func (f *fakeNetworks) Network(_ context.Context, id string) (api.Network, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, n := range f.all {
		if n.ID == id {
			return n, nil
		}
	}
	return api.Network{}, api.Errorf(api.CodeNotFound, "network %q does not exist", id)
}

func (f *fakeNetworks) CreateNetwork(_ context.Context, req api.CreateNetworkRequest) (api.Network, error) {
	if f.before != nil {
		f.before()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	subnet := netip.MustParsePrefix(req.Subnet)
	for _, n := range f.all {
		if n.Subnet.Overlaps(subnet) {
			return api.Network{}, api.Errorf(api.CodeConflict, "network %q: subnet %s overlaps network %q (%s); choose another or omit it", req.ID, subnet, n.ID, n.Subnet)
		}
	}
	f.made = append(f.made, req)
	n := api.Network{ID: req.ID, Subnet: subnet, Gateway: subnet.Addr().Next()}
	if req.Gateway != "" {
		n.Gateway = netip.MustParseAddr(req.Gateway)
	}
	f.all = append(f.all, n)
	return n, nil
}

func newAdapter(f *fakeNetworks) *Adapter {
	return NewAdapter(Config{
		Networks: f, Logger: slog.New(slog.DiscardHandler),
		DockerNetwork: func(_ context.Context, network string) (string, error) {
			if network == api.DefaultNetwork {
				return "socketplane", nil
			}
			return network, nil
		},
	})
}

func someNetworks() *fakeNetworks {
	return &fakeNetworks{all: []api.Network{network("default", "10.1.0.0/16", "10.1.0.1"), network("web", "10.6.0.0/16", "10.6.0.1")}}
}

// must fails the test on an error.
func must[T any](t *testing.T) func(T, error) T {
	t.Helper()
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}
