package cli

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"syscall"

	"github.com/spf13/cobra"
)

// passthrough defines a command that passes its arguments to Docker. The runtime's hooks
// attach and detach the container.
func (a *app) passthrough(verb string, cmd *cobra.Command, run func(cmd *cobra.Command, argv []string) error) *cobra.Command {
	cmd.Use = verb + " [DOCKER_ARGS...] CONTAINER..."
	cmd.DisableFlagParsing = true
	cmd.DisableFlagsInUseLine = true
	cmd.ValidArgsFunction = a.complete(containerNames)
	cmd.RunE = func(cmd *cobra.Command, argv []string) error {
		if slices.Contains(argv, "--help") {
			return cmd.Help()
		}
		if len(argv) == 0 {
			return usagef("no container is named; usage: %s", usageLine(cmd))
		}
		return run(cmd, argv)
	}
	return cmd
}

// becomeDocker replaces this process with `docker verb argv...`.
func (a *app) becomeDocker(verb string, argv []string) error {
	path, env, err := a.dockerProgram()
	if err != nil {
		return err
	}
	if err := syscall.Exec(path, append([]string{"docker", verb}, argv...), env); err != nil {
		return fmt.Errorf("run %s: %w", path, err)
	}
	return nil
}

// dockerProgram returns the path of the docker program and the environment in which it
// calls this host's Docker.
func (a *app) dockerProgram() (string, []string, error) {
	s, err := a.settings()
	if err != nil {
		return "", nil, err
	}
	host, err := a.dockerHost(s)
	if err != nil {
		return "", nil, err
	}
	path, err := exec.LookPath("docker")
	if errors.Is(err, exec.ErrNotFound) {
		return "", nil, errors.New("the program docker is not installed; see: socketplane deps")
	}
	if err != nil {
		return "", nil, fmt.Errorf("program docker: %w", err)
	}
	return path, append(os.Environ(), "DOCKER_HOST="+host), nil
}
