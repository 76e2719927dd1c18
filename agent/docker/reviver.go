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

// LostCall is what the network driver says to a call of dockerd's that has lost
// what it asked for.
const LostCall = "the agent went away while Docker spoke to it"

// LateCall is what it says to one that the agent has no answer to in time.
const LateCall = "the agent did not answer in time"

// Reviver starts the containers that Docker was to bring back, with its own start
// or after a crash, and could not, because the agent, the store or the switch was
// not there yet.
type Reviver struct{ logger *slog.Logger }

var _ Follower = (*Reviver)(nil)

// NewReviver makes a Reviver.
func NewReviver(logger *slog.Logger) *Reviver { return &Reviver{logger: logger} }

// Event implements Follower; there is none that calls for it.
func (r *Reviver) Event(context.Context, *Engine, Event) error { return nil }

// Sweep implements Follower. A container that fails again for another reason
// is Docker's and its user's matter; so is one that has never run: whoever asked
// for it was told that it did not start, and Docker brings back no such one either.
func (r *Reviver) Sweep(ctx context.Context, engine *Engine) error {
	list, err := engine.cli.ContainerList(ctx, client.ContainerListOptions{
		All: true, Filters: make(client.Filters).Add("status", "exited"), // "created" is what has never run
	})
	if err != nil {
		return fmt.Errorf("docker's containers: %w", err)
	}
	// One that hangs must not keep us from what else goes on.
	ctx, cancel := context.WithTimeout(ctx, reviveTimeout)
	defer cancel()
	for _, c := range list.Items {
		got, err := engine.cli.ContainerInspect(ctx, c.ID, client.ContainerInspectOptions{})
		if err != nil {
			continue // gone meanwhile
		}
		if !forsaken(got.Container) {
			continue
		}
		if err := engine.Start(ctx, c.ID); err != nil {
			r.logger.Warn("a container that Docker could not bring back does not start", "container", c.ID, "err", err)
			if passing(err.Error()) {
				return nil // nor would the others; the next sweep tries again
			}
			continue
		}
		r.logger.Info("started a container that Docker could not bring back without the agent", "container", c.ID, "name", got.Container.Name)
	}
	return nil
}

// forsaken says whether a container is one that should run, whose last start
// failed for want of the agent or of what the agent needs. Who was stopped by hand
// has no such error.
func forsaken(c container.InspectResponse) bool {
	if c.HostConfig == nil || c.State == nil || c.State.Running {
		return false
	}
	// Of on-failure nobody knows whether it should: Docker counts its tries, and one
	// that ended well and was started by hand looks the same.
	switch c.HostConfig.RestartPolicy.Name {
	case container.RestartPolicyAlways, container.RestartPolicyUnlessStopped:
		return passing(c.State.Error)
	}
	return false
}

// passing says whether a failure to start is one that passes by itself: the words
// of our hook, of the agent, or of a plugin that cannot be reached.
func passing(said string) bool {
	for _, words := range []string{
		"the agent cannot be reached",    // our hook's (api.ErrUnreachable)
		"no answer from the agent",       // the same, by deadline
		"plugins/socketplane.sock",       // Docker's, of a socket that nobody answers
		`plugin "socketplane" not found`, // Docker's, of one that is not there
		"are not known yet, since",       // the agent's, until the store has answered
		"the store cannot be reached",    // the agent's, when it is away later (state.ErrUnavailable)
		"Open vSwitch cannot be reached", // (ovs.ErrUnavailable)
		LostCall,                         // the driver's, of a call during which the agent went away
		LateCall,                         // the driver's, of one that lasted too long: the switch hangs, say
	} {
		if strings.Contains(said, words) {
			return true
		}
	}
	return false
}
