package cli

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/spf13/cobra"
)

// releaseDeadline is how long the agent may take to hear that a container is
// gone and to free its address.
const releaseDeadline = 5 * time.Second

func (a *app) rmCommand() *cobra.Command {
	return a.passthrough("rm", &cobra.Command{
		Short: "Remove containers and free their addresses",
		Long: `Removes containers as docker rm does, and returns when their addresses are free
again.`,
		Example: `  socketplane rm shop
  socketplane rm -f shop`,
	}, func(cmd *cobra.Command, argv []string) error { return a.removeContainers(cmd.Context(), argv) })
}

func (a *app) removeContainers(ctx context.Context, argv []string) error {
	svc, err := a.service()
	if err != nil {
		return err
	}
	ids, err := endpointsOf(ctx, svc, argv)
	if err != nil {
		return err
	}
	path, env, err := a.dockerProgram()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, path, append([]string{"rm"}, argv...)...)
	cmd.Env = env
	cmd.Stdin, cmd.Stdout, cmd.Stderr = a.stdin, a.stdout, a.stderr
	err = cmd.Run()
	if _, failed := errors.AsType[*exec.ExitError](err); failed {
		return &exitError{code: cmd.ProcessState.ExitCode()} // Docker has said why
	}
	if err != nil {
		return fmt.Errorf("docker rm: %w", err)
	}
	return waitReleased(ctx, svc, ids)
}

// endpointsOf gives the ids of the endpoints that the words of a docker command
// name. Containers without an endpoint are Docker's alone.
func endpointsOf(ctx context.Context, svc api.Service, argv []string) ([]string, error) {
	var ids []string
	for _, word := range argv {
		if strings.HasPrefix(word, "-") {
			continue
		}
		e, err := svc.Endpoint(ctx, word)
		switch {
		case err == nil && e.Source == api.SourceDocker:
			ids = append(ids, e.ID)
		case err == nil, errors.Is(err, api.ErrUnreachable): // Docker removes it in any case; the agent frees it when it is back
		case api.CodeOf(err) == api.CodeNotFound, api.CodeOf(err) == api.CodeInvalid, api.CodeOf(err) == api.CodeConflict:
		default:
			return nil, err
		}
	}
	return ids, nil
}

// waitReleased waits until the agent knows none of the endpoints any more.
func waitReleased(ctx context.Context, svc api.Service, ids []string) error {
	ctx, cancel := context.WithTimeout(ctx, releaseDeadline)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for _, id := range ids {
		for {
			_, err := svc.Endpoint(ctx, id)
			if api.CodeOf(err) == api.CodeNotFound || errors.Is(err, api.ErrUnreachable) {
				break
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("container %s is removed, but the agent has not freed its address within %s; see: socketplane agent logs", shortID(id), releaseDeadline)
			case <-tick.C:
			}
		}
	}
	return nil
}
