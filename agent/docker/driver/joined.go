package driver

import (
	"context"
	"sync"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/docker"
)

// joined are the containers that have joined a network and are not described to
// the agent yet. Docker tells of them while it still starts them, and says what
// they are only afterwards: who follows the events must not wait for that.
type joined struct {
	mu   sync.Mutex
	ids  []string
	wake chan struct{}
}

func newJoined() *joined { return &joined{wake: make(chan struct{}, 1)} }

func (j *joined) add(id string) {
	if api.CheckEndpointID(id) != nil {
		return
	}
	j.mu.Lock()
	j.ids = append(j.ids, id)
	j.mu.Unlock()
	select {
	case j.wake <- struct{}{}:
	default:
	}
}

func (j *joined) take() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	ids := j.ids
	j.ids = nil
	return ids
}

// describe tells the agent the names of containers as they join, until ctx ends.
func (d *Driver) describe(ctx context.Context, engine *docker.Engine) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.joined.wake:
		}
		for _, id := range d.joined.take() {
			if err := d.describeOne(ctx, engine, id); err != nil && ctx.Err() == nil {
				// It works without; the next sweep tries again.
				d.Logger.Warn("a container's name is not known", "container", id, "err", err)
			}
		}
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
			continue // of another driver, or gone
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
