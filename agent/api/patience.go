package api

import (
	"context"
	"errors"
	"time"
)

// Patience is how long a container's start waits for an agent that is just
// being restarted.
const Patience = 10 * time.Second

// WhileUnreachable repeats a call until the agent has answered, or limit is over.
func WhileUnreachable(ctx context.Context, limit time.Duration, call func() error) error {
	over := time.NewTimer(limit)
	defer over.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := call()
		if !errors.Is(err, ErrUnreachable) {
			return err
		}
		select {
		case <-tick.C:
		case <-over.C:
			return err
		case <-ctx.Done():
			return err
		}
	}
}
