package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/docker"
	"github.com/spf13/cobra"
)

func (a *app) runCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "run [-n NETWORK] [--ip ADDR] [-p PORTS] [--allow-address ADDR]... [--forwarding] DOCKER_RUN_ARGS...",
		Short: "docker run, with the container on a network",
		Long: `Runs a container like docker run. The network is there before the container's first
instruction. -n (--network), --ip, -p (--publish), -P (--publish-all),
--allow-address and --forwarding may be anywhere before the image; all other flags
go to Docker unchanged. Without -n the network is "default".

-p takes all of Docker's forms: 80 (any free port of the host; socketplane info
shows it), 8080:80, 127.0.0.1:8080:80/udp, 8000-8002:8000-8002. Docker itself does
not show these ports. A container that asks for a taken port does not start.

--allow-address lets the container have another address of the network as well. Several
containers may be allowed the same address, for a program such as keepalived to move
it between them. With --forwarding the addresses may lie outside of the network: the
container routes for what is behind it. A container that sets addresses or routes
itself also needs --cap-add NET_ADMIN.

The exit code is the container's, 125 if the container could not be created or
started, 126 or 127 if its command could not be run.`,
		Example: `  socketplane run -n web -d --name shop nginx
  socketplane run --rm -it -n web busybox sh
  socketplane run -n web -p 8080:80 -d nginx
  socketplane run -n web --ip 10.6.0.9 -d busybox sleep 1000`,
		DisableFlagParsing:    true,
		DisableFlagsInUseLine: true,
		ValidArgsFunction:     a.afterNetworkFlag(),
		RunE: func(cmd *cobra.Command, argv []string) error {
			r, err := parseRun(argv)
			if err != nil {
				return ours(err)
			}
			if r.help {
				return cmd.Help()
			}
			a.debug = a.debug || r.debug
			if r.socket != "" {
				a.socket = r.socket
			}
			if r.config != "" {
				a.configFile = r.config
			}
			return a.runContainer(cmd.Context(), r)
		},
	}
}

// ours marks an error of run that is not the container's.
func ours(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*exitError](err); ok {
		return err
	}
	return &exitError{code: exitRun, cause: err}
}

// runContainer creates a container, reserves its endpoint and starts it. If the
// reservation fails, it removes the container.
func (a *app) runContainer(ctx context.Context, r runArgs) error {
	s, err := a.settings()
	if err != nil {
		return ours(err)
	}
	if !r.detach && r.tty && attaches(r.attach, "stdin", r.interactive) && !isTerminal(a.stdin) {
		return &exitError{code: exitFailed, cause: errors.New("the input device is not a TTY")} // Docker's message and exit code
	}
	host, err := a.dockerHost(s)
	if err != nil {
		return ours(err)
	}
	engine, err := docker.Dial(host)
	if err != nil {
		return ours(err)
	}
	defer engine.Close() //nolint:errcheck // the program ends
	svc := api.NewClient(s.API.Socket)

	// Until the container starts, a signal ends the command and undoes it.
	making, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	// Before Docker pulls an image for a network that does not exist.
	if _, err := svc.Network(making, r.network); err != nil {
		return ours(didYouMean(making, err, r.network, networkNames(svc)))
	}
	id, err := a.createContainer(making, host, r)
	if err != nil {
		return ours(err)
	}
	if err := reserve(making, svc, engine, id, r); err != nil {
		undoRun(ctx, svc, engine, id, r)
		return ours(err)
	}
	stop() // from here on signals are for the container
	return a.startContainer(ctx, engine, host, id, r)
}

// createContainer creates the container and returns its full id.
func (a *app) createContainer(ctx context.Context, host string, r runArgs) (string, error) {
	argv := append([]string{"create", "--runtime", docker.RuntimeName, "--network", "none"}, r.create...)
	cmd := exec.CommandContext(ctx, "docker", argv...)
	cmd.Env = append(os.Environ(), "DOCKER_HOST="+host)
	var out bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = a.stdin, &out, a.stderr
	err := cmd.Run()
	id := strings.TrimSpace(out.String())
	switch _, failed := errors.AsType[*exec.ExitError](err); {
	case ctx.Err() != nil:
		return "", errors.New("interrupted before the container was made")
	case failed:
		return "", &exitError{code: exitRun} // Docker has printed the reason
	case errors.Is(err, exec.ErrNotFound):
		return "", errors.New("the program docker is not installed; see: socketplane deps")
	case err != nil:
		return "", fmt.Errorf("docker create: %w", err)
	case len(id) != 64 || !isHex(id):
		return "", fmt.Errorf("docker create printed %q, which is not a container id", id)
	}
	return id, nil
}

func reserve(ctx context.Context, svc api.Service, engine *docker.Engine, id string, r runArgs) error {
	name := r.name
	if name == "" {
		var err error
		if name, err = engine.Name(ctx, id); err != nil {
			return err
		}
	}
	ports := r.ports
	if r.publishAll {
		exposed, err := engine.Exposed(ctx, id)
		if err != nil {
			return err
		}
		ports = withExposed(ports, exposed)
	}
	_, err := svc.Reserve(ctx, api.ReserveRequest{
		ID: id, ContainerName: name, Network: r.network, IP: r.ip, Ports: ports, Source: api.SourceDocker,
		AllowAddresses: r.allow, Forwarding: r.forwarding,
	})
	return err
}

// undoRun removes a container that was created but never started.
func undoRun(ctx context.Context, svc api.Service, engine *docker.Engine, id string, r runArgs) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	// Errors are ignored, because the one that led here matters more. A remaining
	// container is visible in docker ps -a, and the agent releases its address when it is
	// removed.
	_ = engine.Remove(ctx, id)
	_ = svc.Release(ctx, id)
	if r.cidFile != "" {
		_ = os.Remove(r.cidFile)
	}
}

// dockerHost returns the address of this host's Docker. The docker program and this
// program use the same one.
func (a *app) dockerHost(s Settings) (string, error) {
	host, ok := a.getenv("DOCKER_HOST")
	switch {
	case !ok || host == "":
		return "unix://" + s.Docker.Socket, nil
	case strings.HasPrefix(host, "unix://"):
		return host, nil
	}
	return "", fmt.Errorf("DOCKER_HOST is %q, but the network is made on this host; run socketplane where that Docker is, or unset it", host)
}
