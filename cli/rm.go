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

// releaseDeadline bounds two waits for the agent: until it has noticed that the containers
// are removed, and until it has released their addresses.
const releaseDeadline = 15 * time.Second

func (a *app) rmCommand() *cobra.Command {
	return a.passthrough("rm", &cobra.Command{
		Short: "Remove containers and free their addresses",
		Long: `Removes containers like docker rm, and returns when their addresses are free again.
If the store cannot be reached it says so, and the agent frees them later.`,
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
		return &exitError{code: cmd.ProcessState.ExitCode()} // Docker has printed the reason
	}
	if err != nil {
		return fmt.Errorf("docker rm: %w", err)
	}
	return a.waitReleased(ctx, svc, ids)
}

// endpointsOf returns the ids of the endpoints that the arguments of a docker command
// refer to. It skips containers without an endpoint.
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
		case err == nil, errors.Is(err, api.ErrUnreachable): // Docker removes it in any case; the agent releases it when it is back
		case api.CodeOf(err) == api.CodeNotFound, api.CodeOf(err) == api.CodeInvalid, api.CodeOf(err) == api.CodeConflict:
		default:
			return nil, err
		}
	}
	return ids, nil
}

// waitReleased waits until the agent has noticed that the containers are gone, and then
// until it has released each endpoint. After that their networks can be deleted at once.
func (a *app) waitReleased(ctx context.Context, svc api.Service, ids []string) error {
	hearing, cancel := context.WithTimeout(ctx, releaseDeadline)
	defer cancel()
	for _, id := range ids {
		err := awaitForgotten(hearing, svc, id)
		switch {
		case errors.Is(err, api.ErrUnreachable): // the agent releases it when it is back
		case err != nil:
			return fmt.Errorf("container %s is removed, but the agent has not noticed it within %s; see: socketplane agent logs", shortID(id), releaseDeadline)
		}
	}
	// A new deadline, so that time used above does not count here.
	freeing, cancel := context.WithTimeout(ctx, releaseDeadline)
	defer cancel()
	for _, id := range ids {
		err := svc.Release(freeing, id) // waits for the release that is under way
		switch {
		case err == nil, errors.Is(err, api.ErrUnreachable):
		case freeing.Err() != nil, api.CodeOf(err) == api.CodeUnavailable: // the agent keeps trying
			// If standard error is closed, there is no one to report to.
			_, _ = fmt.Fprintf(a.stderr, "container %s is removed; its address is freed as soon as possible: %v\n", shortID(id), err)
		default:
			return fmt.Errorf("free the address of container %s: %w", shortID(id), err)
		}
	}
	return nil
}

// awaitForgotten waits until the agent no longer has an endpoint.
func awaitForgotten(ctx context.Context, svc api.Service, id string) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		_, err := svc.Endpoint(ctx, id)
		switch {
		case api.CodeOf(err) == api.CodeNotFound:
			return nil
		case errors.Is(err, api.ErrUnreachable):
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}
