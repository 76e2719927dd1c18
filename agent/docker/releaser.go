package docker

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"github.com/moby/moby/client"

	"github.com/socketplane/socketplane/agent/api"
)

// Releaser releases the endpoints of removed containers of `socketplane run`, including
// containers that were removed while no one watched. It also reports new names of
// containers to the agent.
type Releaser struct {
	svc    api.Service
	logger *slog.Logger
}

var _ Follower = (*Releaser)(nil)

// NewReleaser returns a Releaser that calls svc.
func NewReleaser(svc api.Service, logger *slog.Logger) *Releaser {
	return &Releaser{svc: svc, logger: logger}
}

// Event implements Follower. It releases the endpoint of a removed container and updates
// the name of a renamed one.
func (r *Releaser) Event(ctx context.Context, _ *Engine, ev Event) error {
	if ev.Kind != ContainerRemoved && ev.Kind != ContainerRenamed {
		return nil
	}
	e, err := r.svc.Endpoint(ctx, ev.ID)
	if api.CodeOf(err) == api.CodeNotFound {
		return nil
	}
	if err != nil {
		return fmt.Errorf("endpoint of container %s: %w", ev.ID, err)
	}
	if e.ID != ev.ID || e.Source != api.SourceDocker {
		return nil
	}
	if ev.Kind == ContainerRemoved {
		return r.release(ctx, e)
	}
	r.rename(ctx, e, ev.Name)
	return nil
}

// rename reports the current name of a container to the agent.
func (r *Releaser) rename(ctx context.Context, e api.Endpoint, name string) {
	if name == "" || name == e.ContainerName {
		return
	}
	_, err := r.svc.Describe(ctx, api.DescribeRequest{ID: e.ID, ContainerID: e.ID, ContainerName: name})
	if err != nil && api.CodeOf(err) != api.CodeNotFound {
		// The endpoint works under its old name. The next sweep tries again.
		r.logger.Warn("a container's new name is not known to the agent", "container", e.ID, "name", name, "err", err)
	}
}

// Sweep implements Follower. It releases the endpoints whose container is gone, and
// updates the names of containers that were renamed unseen. It lists the endpoints first,
// so that the later list of containers includes any that are created in the meantime.
func (r *Releaser) Sweep(ctx context.Context, engine *Engine) error {
	endpoints, err := r.svc.Endpoints(ctx)
	if err != nil {
		return fmt.Errorf("list endpoints: %w", err)
	}
	list, err := engine.cli.ContainerList(ctx, client.ContainerListOptions{All: true})
	if err != nil {
		return fmt.Errorf("docker's containers: %w", err)
	}
	names := make(map[string]string, len(list.Items)) // existing containers
	for _, c := range list.Items {
		names[c.ID] = nameOf(c.Names)
	}
	for _, e := range endpoints {
		if e.Source != api.SourceDocker {
			continue
		}
		if name, there := names[e.ID]; there {
			r.rename(ctx, e, name)
			continue
		}
		if err := r.release(ctx, e); err != nil {
			return err
		}
	}
	return nil
}

// nameOf returns the container's own name from Docker's list of its names. The other
// names, with two slashes, are those that linked containers use for it.
func nameOf(names []string) string {
	for _, n := range names {
		if own := strings.TrimPrefix(n, "/"); !strings.Contains(own, "/") {
			return own
		}
	}
	return ""
}

func (r *Releaser) release(ctx context.Context, e api.Endpoint) error {
	if err := r.svc.Release(ctx, e.ID); err != nil {
		return fmt.Errorf("release removed container %s: %w", e.ID, err)
	}
	r.logger.Info("released what a removed container had", "container", e.ID, "network", e.Network, "endpoint", e.IP.String())
	return nil
}
