package cluster

import (
	"context"
	"fmt"

	"github.com/socketplane/socketplane/agent/api"
)

// gate is a mutex for work that takes long: who waits for it can give up.
type gate chan struct{}

func newGate() gate { return make(gate, 1) }

// enter waits until nobody else is inside, or until ctx ends. Who has entered calls
// leave once.
func (g gate) enter(ctx context.Context) error {
	err := ctx.Err() // whose context has ended does not get in, even if nobody is inside
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

// inLine is the error of enter for who called.
func inLine(err error) error {
	return &api.Error{Code: api.CodeUnavailable, Message: err.Error() + "; try again", Cause: err}
}

// tryEnter enters if nobody is inside.
func (g gate) tryEnter() bool {
	select {
	case g <- struct{}{}:
		return true
	default:
		return false
	}
}

func (g gate) leave() { <-g }
