package docker

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/socketplane/socketplane/agent/api"
)

// Engine is a connection to dockerd.
type Engine struct{ cli *client.Client }

// Dial prepares a connection to host, such as unix:///run/docker.sock. Nothing
// is sent before the first call; the API's version is then agreed upon.
func Dial(host string) (*Engine, error) {
	return dial(host)
}

// DialOver prepares a connection that sends its requests over transport.
func DialOver(transport http.RoundTripper) (*Engine, error) {
	const host = "http://docker"
	return dial(host, client.WithHTTPClient(&http.Client{Transport: transport}))
}

func dial(host string, options ...client.Opt) (*Engine, error) {
	cli, err := client.New(append([]client.Opt{client.WithHost(host)}, options...)...)
	if err != nil {
		return nil, fmt.Errorf("docker at %s: %w", host, err)
	}
	return &Engine{cli: cli}, nil
}

// Close ends the connection.
func (e *Engine) Close() error { return e.cli.Close() }

// Name gives a container's name.
func (e *Engine) Name(ctx context.Context, id string) (string, error) {
	got, err := e.cli.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	if err != nil {
		return "", fmt.Errorf("inspect container %s: %w", id, err)
	}
	return strings.TrimPrefix(got.Container.Name, "/"), nil
}

// Exposed lists the ports that a container's image, and whoever made it, declare.
// Those that are neither over tcp nor over udp are left out.
func (e *Engine) Exposed(ctx context.Context, id string) ([]api.PortMapping, error) {
	got, err := e.cli.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	if err != nil {
		return nil, fmt.Errorf("inspect container %s: %w", id, err)
	}
	if got.Container.Config == nil {
		return nil, nil
	}
	var ports []api.PortMapping
	for p := range got.Container.Config.ExposedPorts {
		if proto := string(p.Proto()); proto == api.ProtoTCP || proto == api.ProtoUDP {
			ports = append(ports, api.PortMapping{Proto: proto, ContainerPort: p.Num()})
		}
	}
	slices.SortFunc(ports, func(a, b api.PortMapping) int {
		return cmp.Or(cmp.Compare(a.ContainerPort, b.ContainerPort), cmp.Compare(a.Proto, b.Proto))
	})
	return ports, nil
}

// EverStarted says whether the container's process has run; one that is
// gone counts as never started: --rm removes such a one, and then Docker's words
// tell which it was.
func (e *Engine) EverStarted(ctx context.Context, id string) bool {
	got, err := e.cli.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	if err != nil || got.Container.State == nil {
		return false
	}
	return !strings.HasPrefix(got.Container.State.StartedAt, "0001-01-01")
}

// Remove removes a container with its anonymous volumes, whatever it does.
// One that is gone is no error.
func (e *Engine) Remove(ctx context.Context, id string) error {
	_, err := e.cli.ContainerRemove(ctx, id, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove container %s: %w", id, err)
	}
	return nil
}

// Start starts a container; a failure is a *StartError.
func (e *Engine) Start(ctx context.Context, id string) error {
	if _, err := e.cli.ContainerStart(ctx, id, client.ContainerStartOptions{}); err != nil {
		return &StartError{cause: err}
	}
	return nil
}

// StartError is a container that did not start, in Docker's words.
type StartError struct{ cause error }

// Error gives one of our hooks' own sentence where that is the reason, without
// the layers that carried it.
func (e *StartError) Error() string {
	_, sentence, ours := strings.Cut(e.cause.Error(), "stderr: socketplane: ")
	if !ours {
		return "docker: " + e.cause.Error()
	}
	return "the container did not start: " + strings.TrimSuffix(sentence, ": unknown")
}

// Unwrap gives the cause.
func (e *StartError) Unwrap() error { return e.cause }

// Streams are what a container without a terminal is joined with; nil ones are not.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	DetachKeys     string
	Signals        <-chan os.Signal // forwarded to the container
}

// Run starts a created container, joined with streams, and gives its exit code
// when it has ended; with autoRemove, when it is gone.
func (e *Engine) Run(ctx context.Context, id string, s Streams, autoRemove bool) (int, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conn, err := e.cli.ContainerAttach(ctx, id, client.ContainerAttachOptions{
		Stream: true, Stdin: s.Stdin != nil, Stdout: s.Stdout != nil, Stderr: s.Stderr != nil, DetachKeys: s.DetachKeys,
	})
	if err != nil {
		return 0, fmt.Errorf("attach to container %s: %w", id, err)
	}
	defer conn.Close()
	// Before the start, or a short-lived container is missed.
	condition := container.WaitConditionNextExit
	if autoRemove {
		condition = container.WaitConditionRemoved
	}
	wait := e.cli.ContainerWait(ctx, id, client.ContainerWaitOptions{Condition: condition})
	if err := e.Start(ctx, id); err != nil {
		return 0, err
	}
	go e.forward(ctx, id, s.Signals)

	fed := make(chan struct{})
	if s.Stdin != nil {
		go func() { // ends with the program when nobody closes stdin
			defer close(fed)
			_, _ = io.Copy(conn.Conn, s.Stdin) // a container that does not read on is no failure
			_ = conn.CloseWrite()
		}()
	}
	if s.Stdout == nil && s.Stderr == nil {
		if s.Stdin != nil {
			<-fed
		}
		return 0, nil // as docker run -a stdin
	}
	if err := copyOutput(s, conn.Reader); err != nil {
		return 0, fmt.Errorf("output of container %s: %w", id, err)
	}
	select {
	case result := <-wait.Result:
		if result.Error != nil {
			return 0, fmt.Errorf("wait for container %s: %s", id, result.Error.Message)
		}
		return int(result.StatusCode), nil
	case err := <-wait.Error:
		return 0, fmt.Errorf("wait for container %s: %w", id, err)
	}
}

func copyOutput(s Streams, from io.Reader) error {
	stdout, stderr := s.Stdout, s.Stderr
	if stdout == nil {
		stdout = io.Discard
	}
	if stderr == nil {
		stderr = io.Discard
	}
	_, err := stdcopy.StdCopy(stdout, stderr, from)
	return err
}

// forward sends our signals to the container, as docker run --sig-proxy does.
func (e *Engine) forward(ctx context.Context, id string, signals <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			return
		case s := <-signals:
			n, ok := s.(syscall.Signal)
			// Those are about this process: its children, pipes, and Go's preemption.
			if !ok || n == syscall.SIGCHLD || n == syscall.SIGPIPE || n == syscall.SIGURG {
				continue
			}
			// A container that has ended cannot be signalled, and need not be.
			_, _ = e.cli.ContainerKill(ctx, id, client.ContainerKillOptions{Signal: strconv.Itoa(int(n))})
		}
	}
}

// runtimes gives the runtimes that dockerd knows, by name.
func (e *Engine) runtimes(ctx context.Context) (map[string]runtimeEntry, error) {
	info, err := e.cli.Info(ctx, client.InfoOptions{})
	if err != nil {
		return nil, fmt.Errorf("docker info: %w", err)
	}
	known := map[string]runtimeEntry{}
	for name, r := range info.Info.Runtimes {
		known[name] = runtimeEntry{Path: r.Path, RuntimeArgs: r.Args}
	}
	return known, nil
}
