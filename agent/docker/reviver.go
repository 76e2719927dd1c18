package docker

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
)

// reviveTimeout bounds the starts of one sweep.
const reviveTimeout = 30 * time.Second

// LostCall is part of the network driver's error for a call whose body dockerd could not
// send again.
const LostCall = "the agent went away while Docker spoke to it"

// LateCall is part of the network driver's error for a call that the agent did not answer
// in time.
const LateCall = "the agent did not answer in time"

// Reviver starts containers that Docker tried to restart, at its own start or after a
// crash, but could not because the agent, the store or the switch was not available yet.
type Reviver struct{ logger *slog.Logger }

var _ Follower = (*Reviver)(nil)

// NewReviver returns a Reviver.
func NewReviver(logger *slog.Logger) *Reviver { return &Reviver{logger: logger} }

// Event implements Follower. It ignores all events.
func (r *Reviver) Event(context.Context, *Engine, Event) error { return nil }

// Sweep implements Follower. It leaves a container alone that fails again for another
// reason. It also leaves a container alone that has never run, because its user saw the
// error of the start, and Docker does not restart such a container either.
func (r *Reviver) Sweep(ctx context.Context, engine *Engine) error {
	list, err := engine.cli.ContainerList(ctx, client.ContainerListOptions{
		All: true, Filters: make(client.Filters).Add("status", "exited"), // "created" would be those that have never run
	})
	if err != nil {
		return fmt.Errorf("docker's containers: %w", err)
	}
	// A start that hangs must not block the sweep.
	ctx, cancel := context.WithTimeout(ctx, reviveTimeout)
	defer cancel()
	for _, c := range list.Items {
		got, err := engine.cli.ContainerInspect(ctx, c.ID, client.ContainerInspectOptions{})
		if err != nil {
			continue // removed in the meantime
		}
		if !forsaken(got.Container) {
			continue
		}
		if err := engine.Start(ctx, c.ID); err != nil {
			r.logger.Warn("a container that Docker could not bring back does not start", "container", c.ID, "err", err)
			if passing(err.Error()) {
				return nil // the others would fail too; the next sweep tries again
			}
			continue
		}
		r.logger.Info("started a container that Docker could not bring back without the agent", "container", c.ID, "name", got.Container.Name)
	}
	return nil
}

// forsaken reports whether a container should run and its last start failed because the
// agent, or something that the agent needs, was unavailable. A container that was stopped
// by hand has no such error.
func forsaken(c container.InspectResponse) bool {
	if c.HostConfig == nil || c.State == nil || c.State.Running {
		return false
	}
	// With on-failure it is unknown whether the container should run. Docker counts its
	// attempts, and a container that exited successfully after a start by hand looks the
	// same.
	switch c.HostConfig.RestartPolicy.Name {
	case container.RestartPolicyAlways, container.RestartPolicyUnlessStopped:
		return passing(c.State.Error)
	}
	return false
}

// passing reports whether a start failed for a temporary reason. It recognizes the
// messages of our hook, of the agent, and of Docker about an unreachable plugin.
func passing(said string) bool {
	for _, words := range []string{
		"the agent cannot be reached",    // our hook (api.ErrUnreachable)
		"no answer from the agent",       // the same, on timeout
		"plugins/socketplane.sock",       // Docker: no program answers on the socket
		`plugin "socketplane" not found`, // Docker: the socket does not exist
		"are not known yet, since",       // the agent, until the store has answered
		"the store cannot be reached",    // the agent, when the store goes away later (state.ErrUnavailable)
		"Open vSwitch cannot be reached", // the agent (ovs.ErrUnavailable)
		LostCall,                         // the driver: the agent went away during a call
		LateCall,                         // the driver: a call took too long, for example because the switch hangs
	} {
		if strings.Contains(said, words) {
			return true
		}
	}
	return false
}
