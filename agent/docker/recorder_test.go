package docker

import (
	"context"
	"sync"

	"github.com/socketplane/socketplane/agent/api"
)

// recorder is an agent that only remembers.
type recorder struct {
	api.Service // what a test does not expect fails loudly
	mu          sync.Mutex
	endpoints   []api.Endpoint
	released    []string
	renamed     []api.DescribeRequest
}

func (r *recorder) Describe(_ context.Context, req api.DescribeRequest) (api.Endpoint, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.renamed = append(r.renamed, req)
	return api.Endpoint{}, nil
}

func (r *recorder) Endpoints(context.Context) ([]api.Endpoint, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]api.Endpoint{}, r.endpoints...), nil
}

func (r *recorder) Endpoint(_ context.Context, ref string) (api.Endpoint, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.endpoints {
		if e.ID == ref {
			return e, nil
		}
	}
	return api.Endpoint{}, api.Errorf(api.CodeNotFound, "container %q has no endpoint", ref)
}

func (r *recorder) Release(_ context.Context, id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.released = append(r.released, id)
	r.endpoints = slicesWithout(r.endpoints, id)
	return nil
}

func (r *recorder) renames() []api.DescribeRequest {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]api.DescribeRequest{}, r.renamed...)
}

func slicesWithout(list []api.Endpoint, id string) []api.Endpoint {
	var out []api.Endpoint
	for _, e := range list {
		if e.ID != id {
			out = append(out, e)
		}
	}
	return out
}

func (r *recorder) releasedIDs() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string{}, r.released...)
}
