package docker

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"github.com/moby/moby/client"

	"github.com/socketplane/socketplane/agent/api"
)

// Releaser releases what belonged to containers of `socketplane run` that were
// removed, also those that were removed while nobody watched. It passes on the new
// names of those that are renamed.
type Releaser struct {
	svc    api.Service
	logger *slog.Logger
}

var _ Follower = (*Releaser)(nil)

// NewReleaser makes a Releaser that releases through svc.
func NewReleaser(svc api.Service, logger *slog.Logger) *Releaser {
	return &Releaser{svc: svc, logger: logger}
}

// Event implements Follower: it releases the endpoint of a removed container, if
// it has one, and renames that of a renamed one.
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

// rename tells the agent the name that a container has now.
func (r *Releaser) rename(ctx context.Context, e api.Endpoint, name string) {
	if name == "" || name == e.ContainerName {
		return
	}
	_, err := r.svc.Describe(ctx, api.DescribeRequest{ID: e.ID, ContainerID: e.ID, ContainerName: name})
	if err != nil && api.CodeOf(err) != api.CodeNotFound {
		// It works under its old name; the next sweep tries again.
		r.logger.Warn("a container's new name is not known to the agent", "container", e.ID, "name", name, "err", err)
	}
}

// Sweep implements Follower: it releases the endpoints whose container is gone,
// and passes on the names of those that were renamed unseen. The endpoints are
// read first: a container that is made meanwhile is in the later list at least.
func (r *Releaser) Sweep(ctx context.Context, engine *Engine) error {
	endpoints, err := r.svc.Endpoints(ctx)
	if err != nil {
		return fmt.Errorf("list endpoints: %w", err)
	}
	list, err := engine.cli.ContainerList(ctx, client.ContainerListOptions{All: true})
	if err != nil {
		return fmt.Errorf("docker's containers: %w", err)
	}
	names := make(map[string]string, len(list.Items)) // of the containers that are there
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

// nameOf gives a container's own name of those that Docker lists; the others,
// with two slashes, are what containers linked to it call it.
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
