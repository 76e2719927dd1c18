// Package setup sets a host up for the agent, and gives it back: programs,
// kernel settings, the group, the settings file, units, completion. It works step
// by step. A step states the end and does what is missing, so that running all
// again continues after a failure, and changes nothing when all is done. It
// decides nothing about networks, and speaks to no agent but through what it is
// handed.
package setup

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
)

// Host is the machine that is set up.
type Host struct {
	Root    string    // put before every path; empty: this machine itself
	Command Commander // runs programs of the machine
	Out     io.Writer // what is done, for people
}

// path is where a file of the host lies.
func (h *Host) path(name string) string { return filepath.Join("/", h.Root, name) }

// Step is one thing that has to be so.
type Step struct {
	Name string
	// Do makes it so and says in a few words what was done, or how it was found.
	Do func(ctx context.Context) (said string, err error)
	// Remedy is how to go on when Do fails; empty: the error says it.
	Remedy string
}

// Run does the steps in their order, a line each. The first that fails ends
// it: the later ones build on it.
func (h *Host) Run(ctx context.Context, verb string, steps []Step) error {
	for _, s := range steps {
		said, err := s.Do(ctx)
		if err != nil {
			if s.Remedy != "" {
				return fmt.Errorf("%s: %w; %s, then run it again; it continues there", s.Name, err, s.Remedy)
			}
			return fmt.Errorf("%s: %w", s.Name, err)
		}
		if said != "" {
			fmt.Fprintf(h.Out, "%s: %s: %s\n", verb, s.Name, said)
		}
	}
	return nil
}
