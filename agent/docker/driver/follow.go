package driver

import (
	"context"
	"fmt"
	"time"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/docker"
)

// Event implements docker.Follower.
func (d *Driver) Event(ctx context.Context, engine *docker.Engine, e docker.Event) error {
	switch e.Kind {
	case docker.NetworkMade:
		if w, ok := d.known.awaited(e.ID); ok {
			dn, err := engine.Network(ctx, e.ID)
			if err != nil || dn.ID == "" { // gone: Docker has called the driver
				return err
			}
			return d.named(ctx, engine, dn, w)
		}
		if _, bound := d.known.network(e.ID); !bound {
			d.soon() // created before the agent restarted: bind it before it is removed
		}
	case docker.NetworkRemoved:
		_, end := d.known.deleted(e.ID)
		end()
		d.soon()
	case docker.NetworkJoined:
		if _, ours := d.known.network(e.ID); ours {
			d.joined.add(e.Container)
		}
	case docker.ContainerMade:
		d.kept.created(e.ID)
	case docker.ContainerRenamed:
		d.joined.add(e.ID)
		d.kept.look() // a stopped container has not joined a network
	case docker.ContainerRemoved, docker.NetworkLeft:
		d.kept.look()
	}
	return nil
}

// doubtTime is how long Sweep leaves an endpoint alone that Docker does not list but may
// be creating. Sweeps follow one another quickly when dockerd restarts repeatedly.
const doubtTime = 30 * time.Second

// Sweep implements docker.Follower. It releases the endpoints that Docker no longer knows,
// and describes those whose container is not known yet. It keeps an address that a stopped
// container requested by name.
func (d *Driver) Sweep(ctx context.Context, engine *docker.Engine) error {
	d.soon()
	d.kept.createdUnseen()
	endpoints, err := d.Service.Endpoints(ctx)
	if err != nil {
		return fmt.Errorf("list endpoints: %w", err)
	}
	mine := endpoints[:0]
	for _, e := range endpoints {
		if e.Source == api.SourceDriver {
			mine = append(mine, e)
		}
	}
	if len(mine) == 0 {
		d.doubted = nil
		return nil
	}
	// The order matters: this is after the agent's list and before Docker's. An endpoint
	// in the agent's list that is not being created has joined, so Docker already lists
	// it.
	making := d.known.allInTheMaking()
	known, containers, err := d.dockersEndpoints(ctx, engine)
	if err != nil {
		return err
	}
	named, err := d.namedAddresses(ctx, engine)
	if err != nil {
		return err
	}
	doubted := map[string]time.Time{}
	doubt := func(id string) {
		doubted[id] = time.Now()
		if since, ok := d.doubted[id]; ok {
			doubted[id] = since
		}
	}
	for _, e := range mine {
		since, before := d.doubted[e.ID]
		long := before && time.Since(since) >= doubtTime
		switch {
		case known[e.ID]:
			if named.has(e) {
				d.kept.name(e.ID)
			}
			if e.ContainerID == e.ID && containers[e.ID] != "" {
				d.joined.add(containers[e.ID])
			}
		case !long && named.on(e):
			doubt(e.ID) // Docker lists it as the endpoint of its container
		case !e.Attached && d.kept.ended(e.ID) && named.has(e):
		case !making[e.ID] && named.has(e):
			if err := d.Service.Detach(ctx, e.ID); err != nil {
				return fmt.Errorf("detach what Docker does not know: %w", err)
			}
			d.kept.name(e.ID)
			d.kept.end(e.ID)
		case e.Attached || long || !making[e.ID]:
			if err := d.Service.Release(ctx, e.ID); err != nil {
				return fmt.Errorf("release what Docker does not know: %w", err)
			}
			d.known.settled(e.ID)
			d.Logger.Info("released what Docker does not know any more", "endpoint", e.ID, "container", e.ContainerName, "network", e.Network, "ip", e.IP)
		default:
			// Docker may be creating the endpoint and list it only after our answer. A
			// later sweep decides.
			doubt(e.ID)
		}
	}
	d.doubted = doubted
	return nil
}

// dockersEndpoints returns the endpoints of our networks that Docker lists, and the
// containers that have joined them, by endpoint id.
func (d *Driver) dockersEndpoints(ctx context.Context, engine *docker.Engine) (known map[string]bool, containers map[string]string, err error) {
	networks, err := engine.Networks(ctx)
	if err != nil {
		return nil, nil, err
	}
	known, containers = map[string]bool{}, map[string]string{}
	for _, n := range networks {
		if n.Driver != docker.DriverName {
			continue
		}
		list, err := engine.NetworkEndpoints(ctx, n.ID)
		if err != nil {
			return nil, nil, err
		}
		for id, container := range list {
			known[id] = true
			containers[id] = container
		}
	}
	return known, containers, nil
}
