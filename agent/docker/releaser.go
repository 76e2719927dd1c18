package docker

import (
	"context"
	"fmt"
	"log/slog"

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
	_, err = r.svc.Reserve(ctx, api.ReserveRequest{ID: e.ID, ContainerName: ev.Name, Network: e.Network, Source: e.Source})
	if err != nil {
		// It works under its old name.
		r.logger.Warn("a container's new name is not known to the agent", "container", e.ID, "name", ev.Name, "err", err)
	}
	return nil
}

// Sweep implements Follower: it releases the endpoints whose container is gone.
// The endpoints are read first: a container that is made meanwhile is in the
// later list at least.
func (r *Releaser) Sweep(ctx context.Context, engine *Engine) error {
	endpoints, err := r.svc.Endpoints(ctx)
	if err != nil {
		return fmt.Errorf("list endpoints: %w", err)
	}
	list, err := engine.cli.ContainerList(ctx, client.ContainerListOptions{All: true})
	if err != nil {
		return fmt.Errorf("docker's containers: %w", err)
	}
	there := make(map[string]bool, len(list.Items))
	for _, c := range list.Items {
		there[c.ID] = true
	}
	for _, e := range endpoints {
		if e.Source != api.SourceDocker || there[e.ID] {
			continue
		}
		if err := r.release(ctx, e); err != nil {
			return err
		}
	}
	return nil
}

func (r *Releaser) release(ctx context.Context, e api.Endpoint) error {
	if err := r.svc.Release(ctx, e.ID); err != nil {
		return fmt.Errorf("release removed container %s: %w", e.ID, err)
	}
	r.logger.Info("released what a removed container had", "container", e.ID, "network", e.Network, "endpoint", e.IP.String())
	return nil
}
