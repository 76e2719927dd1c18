package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/socketplane/socketplane/agent/api"
)

// HookCommand is the first argument when the OCI runtime calls this program as a hook.
const HookCommand = "hook"

const hookCreateRuntime = "create-runtime"

// DefaultSocket is the default path of the agent's socket. It is a constant because a hook
// has no environment and reads no settings.
const DefaultSocket = "/run/socketplane/socketplane.sock"

// maxState bounds the container state on stdin, in bytes.
const maxState = 1 << 20

// ociState is the state that a hook reads from stdin (OCI runtime-spec, runtime.md).
type ociState struct {
	ID     string `json:"id"`
	PID    int    `json:"pid"`
	Bundle string `json:"bundle"`
}

// RunHook runs one OCI hook. args are the name of the hook and, if it is not
// DefaultSocket, the path of the agent's socket. RunHook returns the exit code. If it is
// not 0, the container does not start.
func RunHook(ctx context.Context, args []string, stdin io.Reader, stderr io.Writer) int {
	if err := runHook(ctx, args, stdin); err != nil {
		fmt.Fprintf(stderr, "socketplane: %s\n", strings.ReplaceAll(err.Error(), "\n", "; "))
		return 1
	}
	return 0
}

func runHook(ctx context.Context, args []string, stdin io.Reader) error {
	if len(args) < 1 || len(args) > 2 {
		return errors.New("hook is called by the container runtime, with its state on standard input")
	}
	socket := DefaultSocket
	if len(args) == 2 {
		socket = args[1]
	}
	state, err := readState(stdin)
	if err != nil {
		return err
	}
	svc := api.NewClient(socket)
	if args[0] != hookCreateRuntime {
		return fmt.Errorf("there is no hook %q", args[0])
	}
	return createRuntime(ctx, svc, state)
}

func readState(r io.Reader) (ociState, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxState+1))
	if err != nil {
		return ociState{}, fmt.Errorf("container state: %w", err)
	}
	var s ociState
	if len(data) > maxState {
		return s, fmt.Errorf("container state is larger than %d bytes", maxState)
	}
	if err := json.Unmarshal(data, &s); err != nil {
		return s, fmt.Errorf("container state: %w", err)
	}
	return s, api.CheckEndpointID(s.ID)
}

// createRuntime attaches the container to its network. It waits for an agent that is
// restarting, so that the start of the container does not fail.
func createRuntime(ctx context.Context, svc api.Service, s ociState) error {
	if s.PID <= 0 {
		return fmt.Errorf("container %s: its state has no process", s.ID)
	}
	ctx, cancel := context.WithTimeout(ctx, 25*time.Second) // shorter than the timeout of the hook, so that the error is reported
	defer cancel()
	var e api.Endpoint
	err := api.WhileUnreachable(ctx, api.Patience, func() (err error) {
		e, err = svc.Attach(ctx, api.AttachRequest{ID: s.ID, NetNS: fmt.Sprintf("/proc/%d/ns/net", s.PID), Source: api.SourceDocker})
		return err
	})
	if err != nil {
		return err
	}
	return nameInHosts(filepath.Join(s.Bundle, "config.json"), s.ID, e)
}
