package driver

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/docker"
)

const (
	// describePatience bounds the wait for the description of one container. Docker does
	// not answer until the start of the container is complete.
	describePatience = 5 * time.Second
	// describeAtOnce bounds the number of concurrent requests.
	describeAtOnce = 8
)

// joined is the set of containers that have joined a network but are not described to the
// agent yet. Docker sends the event during the start of a container but describes the
// container only afterwards, so the reader of the events must not wait for the
// description.
type joined struct {
	mu       sync.Mutex
	ids      map[string]bool
	wake     chan struct{}
	patience time.Duration
}

func newJoined() *joined {
	return &joined{ids: map[string]bool{}, wake: make(chan struct{}, 1), patience: describePatience}
}

func (j *joined) add(id string) {
	if api.CheckEndpointID(id) != nil {
		return
	}
	j.mu.Lock()
	j.ids[id] = true
	j.mu.Unlock()
	select {
	case j.wake <- struct{}{}:
	default:
	}
}

func (j *joined) take() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	ids := slices.Sorted(maps.Keys(j.ids))
	clear(j.ids)
	return ids
}

// describe reports the names of containers to the agent as they join, until ctx ends.
func (d *Driver) describe(ctx context.Context, engine *docker.Engine) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.joined.wake:
		}
		var g errgroup.Group
		g.SetLimit(describeAtOnce)
		for _, id := range d.joined.take() {
			g.Go(func() error {
				d.describeInTime(ctx, engine, id)
				return nil
			})
		}
		_ = g.Wait() // none of them fails
	}
}

// describeInTime describes a container. It requeues a container whose start takes long, so
// that the others need not wait for it.
func (d *Driver) describeInTime(ctx context.Context, engine *docker.Engine, id string) {
	in, cancel := context.WithTimeout(ctx, d.joined.patience)
	defer cancel()
	err := d.describeOne(in, engine, id)
	switch {
	case err == nil, ctx.Err() != nil:
	case in.Err() != nil:
		d.joined.add(id)
	default:
		// The name is not essential. The next sweep tries again.
		d.Logger.Warn("a container's name is not known", "container", id, "err", err)
	}
}

func (d *Driver) describeOne(ctx context.Context, engine *docker.Engine, id string) error {
	c, err := engine.Container(ctx, id)
	if err != nil {
		return err
	}
	for _, ep := range c.Endpoints {
		e, err := d.Service.Endpoint(ctx, ep)
		if api.CodeOf(err) == api.CodeNotFound {
			continue // endpoint of another driver, or gone
		}
		if err != nil {
			return err
		}
		if e.ID != ep || e.Source != api.SourceDriver || e.ContainerID == c.ID && e.ContainerName == c.Name {
			continue
		}
		_, err = d.Service.Describe(ctx, api.DescribeRequest{ID: ep, ContainerID: c.ID, ContainerName: c.Name})
		if err != nil && api.CodeOf(err) != api.CodeNotFound {
			return err
		}
	}
	return nil
}
