package setup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// aptOptions keep apt-get from asking questions: it keeps configuration files, and waits
// up to 300 s for a running dpkg, such as unattended-upgrades at a first boot.
var aptOptions = []string{
	"-q", "-y", "--no-install-recommends",
	"-o", "Dpkg::Options::=--force-confold", "-o", "DPkg::Lock::Timeout=300",
}

// packages installs the packages of missing programs.
func (h *Host) packages(missing func() []string, stateDir string) Step {
	return Step{
		Name: "packages", Remedy: "see that apt-get can reach its mirrors, or install them by hand",
		Do: func(ctx context.Context) (string, error) {
			var got []string
			// Twice, because newer releases have Docker's client in a separate package.
			for range 2 {
				want := missing()
				if len(want) == 0 {
					break
				}
				if slices.Equal(want, got) {
					return "", fmt.Errorf("%s were installed, and their programs are still missing or too old", strings.Join(want, ", "))
				}
				if err := h.apt(ctx, want); err != nil {
					return "", err
				}
				got = append(got, want...)
				if err := h.note(stateDir, func(r *Record) { r.Packages = append(r.Packages, want...) }); err != nil {
					return "", err
				}
			}
			if len(got) == 0 {
				return "all there", nil
			}
			return "installed " + strings.Join(got, " "), nil
		},
	}
}

func (h *Host) apt(ctx context.Context, want []string) error {
	list := strings.Join(want, " ")
	if _, err := h.Command.Find("apt-get"); err != nil {
		return errors.New("missing: " + list + "; there is no apt-get here")
	}
	fmt.Fprintf(h.Out, "  apt-get install %s (a minute or two)\n", list)
	return h.telling("packages", func() error {
		if _, err := h.Command.Run(ctx, "apt-get", "-q", "-o", "DPkg::Lock::Timeout=300", "update"); err != nil {
			return err
		}
		_, err := h.Command.Run(ctx, "apt-get", slices.Concat(aptOptions, []string{"install"}, want)...)
		return err
	})
}
