// Package setup installs and uninstalls the agent's environment on a host: programs,
// kernel settings, the group, the settings file, units, completion. It works in steps.
// Each step describes a desired state and does what is missing. So running all steps again
// continues after a failure, and changes nothing if everything is done. The package makes
// no decisions about networks, and calls the agent only through functions that it is
// given.
package setup

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
)

// Host is the machine to set up.
type Host struct {
	Root    string    // prefix of every path; empty: this machine itself
	Command Commander // runs programs on the machine
	Out     io.Writer // progress messages for people
}

// path returns the path of a file of the host.
func (h *Host) path(name string) string { return filepath.Join("/", h.Root, name) }

// Step is one part of the installation or uninstallation.
type Step struct {
	Name string
	// Do brings about the desired state. It returns a short description of what it did or
	// found.
	Do func(ctx context.Context) (said string, err error)
	// Remedy says how to continue if Do fails. It is empty if the error does.
	Remedy string
}

// Run runs the steps in order and prints one line each. It stops at the first error,
// because later steps depend on earlier ones.
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
