package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"

	"github.com/socketplane/socketplane/agent/docker"
	"golang.org/x/sys/unix"
)

// startContainer starts the created container and exits like docker run. With a terminal
// it runs the docker program, which can handle one. In all other cases it needs no second
// process.
func (a *app) startContainer(ctx context.Context, engine *docker.Engine, host, id string, r runArgs) error {
	switch {
	case r.detach:
		if err := engine.Start(ctx, id); err != nil {
			return startFailure(err)
		}
		_, err := fmt.Fprintln(a.stdout, id)
		return err
	case r.tty:
		return a.startOnTerminal(ctx, engine, host, id, r)
	}
	return a.startAttached(ctx, engine, id, r)
}

// startAttached attaches our streams to the container and forwards signals.
func (a *app) startAttached(ctx context.Context, engine *docker.Engine, id string, r runArgs) error {
	streams := docker.Streams{DetachKeys: r.detachKeys}
	if attaches(r.attach, "stdin", r.interactive) {
		streams.Stdin = a.stdin
	}
	if attaches(r.attach, "stdout", true) {
		streams.Stdout = a.stdout
	}
	if attaches(r.attach, "stderr", true) {
		streams.Stderr = a.stderr
	}
	if r.sigProxy {
		signals := make(chan os.Signal, 128)
		signal.Notify(signals)
		defer signal.Stop(signals)
		streams.Signals = signals
	}
	if streams.Stdout == nil && streams.Stderr == nil {
		fmt.Fprintln(a.stdout, id) // like docker run -a stdin
	}
	code, err := engine.Run(ctx, id, streams, r.autoRemove)
	if err != nil {
		return startFailure(err)
	}
	return exitWith(code)
}

// startOnTerminal runs `docker start` on the terminal.
func (a *app) startOnTerminal(ctx context.Context, engine *docker.Engine, host, id string, r runArgs) error {
	argv := []string{"start", "--attach"}
	if attaches(r.attach, "stdin", r.interactive) {
		argv = append(argv, "--interactive")
	}
	if r.detachKeys != "" {
		argv = append(argv, "--detach-keys", r.detachKeys)
	}
	cmd := exec.Command("docker", append(argv, id)...)
	cmd.Env = append(os.Environ(), "DOCKER_HOST="+host)
	// The container's terminal is on stdout, so stderr contains only messages of Docker.
	var words tailBuffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = a.stdin, a.stdout, io.MultiWriter(a.stderr, &words)
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return ours(fmt.Errorf("docker start: %w", err))
	}
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		for {
			select {
			case <-ended:
				return
			case s := <-signals:
				if s != syscall.SIGINT { // the terminal sends SIGINT to the whole process group
					_ = cmd.Process.Signal(s)
				}
			}
		}
	}()
	err := cmd.Wait()
	code := cmd.ProcessState.ExitCode()
	if _, failed := errors.AsType[*exec.ExitError](err); err != nil && !failed {
		return ours(fmt.Errorf("docker start: %w", err))
	}
	// If the container did not start, docker start exits with 1, but docker run has
	// several codes.
	if code == 1 && strings.Contains(words.String(), "Error") && !engine.EverStarted(ctx, id) {
		return exitWith(startFailureCode(words.String()))
	}
	return exitWith(code)
}

// startFailure returns an error with docker run's exit code for a failed start.
func startFailure(err error) error {
	failed, ok := errors.AsType[*docker.StartError](err)
	if !ok {
		return ours(err)
	}
	return &exitError{code: startFailureCode(failed.Unwrap().Error()), cause: failed}
}

// startFailureCode maps Docker's message for a failed start to docker run's exit codes
// (docker/cli, cli/command/container/run.go, toStatusError).
func startFailureCode(message string) int {
	if strings.Contains(message, "error running hook") { // runc's message; the rest is from our hook
		return exitRun
	}
	for _, s := range []string{"executable file not found", "no such file or directory", "system cannot find the file specified"} {
		if strings.Contains(message, s) {
			return 127
		}
	}
	for _, s := range []string{syscall.EACCES.Error(), syscall.EISDIR.Error()} {
		if strings.Contains(message, s) {
			return 126
		}
	}
	return exitRun
}

func exitWith(code int) error {
	if code == 0 {
		return nil
	}
	return &exitError{code: code}
}

// tailBuffer keeps the last 4 KiB written to it.
type tailBuffer struct{ buf bytes.Buffer }

func (t *tailBuffer) Write(p []byte) (int, error) {
	const most = 4 << 10
	t.buf.Write(p)
	if over := t.buf.Len() - most; over > 0 {
		t.buf.Next(over)
	}
	return len(p), nil
}

func (t *tailBuffer) String() string { return t.buf.String() }

func isTerminal(f *os.File) bool {
	if f == nil {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
