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

// Engine is a client of dockerd.
type Engine struct{ cli *client.Client }

// Dial returns an Engine for host, such as unix:///run/docker.sock. It sends nothing. The
// first call connects and negotiates the API version.
func Dial(host string) (*Engine, error) {
	return dial(host)
}

// DialOver returns an Engine that sends its requests over transport.
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

// Close closes the connection.
func (e *Engine) Close() error { return e.cli.Close() }

// Name returns the name of a container.
func (e *Engine) Name(ctx context.Context, id string) (string, error) {
	got, err := e.cli.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	if err != nil {
		return "", fmt.Errorf("inspect container %s: %w", id, err)
	}
	return strings.TrimPrefix(got.Container.Name, "/"), nil
}

// Exposed returns the tcp and udp ports that a container exposes, as declared by its image
// or its creator. They are sorted by port and protocol.
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

// EverStarted reports whether the container's process has ever run. It returns false for a
// container that is gone. Docker removes a --rm container whose start failed, and the
// error of the start contains the reason.
func (e *Engine) EverStarted(ctx context.Context, id string) bool {
	got, err := e.cli.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	if err != nil || got.Container.State == nil {
		return false
	}
	return !strings.HasPrefix(got.Container.State.StartedAt, "0001-01-01")
}

// Remove removes a container and its anonymous volumes, even if it is running. It succeeds
// if the container is gone.
func (e *Engine) Remove(ctx context.Context, id string) error {
	_, err := e.cli.ContainerRemove(ctx, id, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove container %s: %w", id, err)
	}
	return nil
}

// Start starts a container. It returns a *StartError on failure.
func (e *Engine) Start(ctx context.Context, id string) error {
	if _, err := e.cli.ContainerStart(ctx, id, client.ContainerStartOptions{}); err != nil {
		return &StartError{cause: err}
	}
	return nil
}

// StartError reports that a container did not start. It wraps Docker's error.
type StartError struct{ cause error }

// Error returns only the message of our hook if the hook caused the failure, without the
// layers around it.
func (e *StartError) Error() string {
	_, sentence, ours := strings.Cut(e.cause.Error(), "stderr: socketplane: ")
	if !ours {
		return "docker: " + e.cause.Error()
	}
	return "the container did not start: " + strings.TrimSuffix(sentence, ": unknown")
}

// Unwrap returns Docker's error.
func (e *StartError) Unwrap() error { return e.cause }

// Streams are the streams to attach to a container without a terminal. Run does not attach
// nil ones.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	DetachKeys     string
	Signals        <-chan os.Signal // forwarded to the container
}

// Run attaches streams to a created container and starts it. It returns the exit code when
// the container has ended or, with autoRemove, when it has been removed. Without stdout
// and stderr it returns 0 at the end of stdin, like docker run -a stdin.
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
	// Wait before the start, so that a short-lived container is not missed.
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
		go func() { // if stdin is never closed, this ends with the program
			defer close(fed)
			_, _ = io.Copy(conn.Conn, s.Stdin) // it is no failure if the container stops reading
			_ = conn.CloseWrite()
		}()
	}
	if s.Stdout == nil && s.Stderr == nil {
		if s.Stdin != nil {
			<-fed
		}
		return 0, nil // like docker run -a stdin
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

// forward sends the signals of this process to the container, like docker run --sig-proxy.
func (e *Engine) forward(ctx context.Context, id string, signals <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			return
		case s := <-signals:
			n, ok := s.(syscall.Signal)
			// These concern this process itself: its children, pipes, and Go's preemption.
			if !ok || n == syscall.SIGCHLD || n == syscall.SIGPIPE || n == syscall.SIGURG {
				continue
			}
			// Fails if the container has ended, which is harmless.
			_, _ = e.cli.ContainerKill(ctx, id, client.ContainerKillOptions{Signal: strconv.Itoa(int(n))})
		}
	}
}

// runtimes returns the runtimes that dockerd knows, by name.
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
