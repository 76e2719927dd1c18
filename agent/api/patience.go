package api

import (
	"context"
	"errors"
	"time"
)

// Patience is how long the start of a container waits for an agent that is restarting.
const Patience = 10 * time.Second

// WhileUnreachable repeats call every 50 ms while it fails with ErrUnreachable, until
// limit is over or ctx ends. It returns the last result of call.
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
