package cluster

import (
	"context"
	"fmt"

	"github.com/socketplane/socketplane/agent/api"
)

// gate is a mutex for long operations. A waiter can give up.
type gate chan struct{}

func newGate() gate { return make(gate, 1) }

// enter waits until the gate is free or ctx ends. After a nil error, the caller must call
// leave once.
func (g gate) enter(ctx context.Context) error {
	err := ctx.Err() // an ended context is refused even if the gate is free
	if err == nil {
		select {
		case g <- struct{}{}:
			return nil
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	return fmt.Errorf("another change of this host's place in the cluster is not finished: %w", err)
}

// inLine converts an error of enter for the API.
func inLine(err error) error {
	return &api.Error{Code: api.CodeUnavailable, Message: err.Error() + "; try again", Cause: err}
}

// tryEnter enters if the gate is free.
func (g gate) tryEnter() bool {
	select {
	case g <- struct{}{}:
		return true
	default:
		return false
	}
}

func (g gate) leave() { <-g }
