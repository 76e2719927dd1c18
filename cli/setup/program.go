package setup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const (
	// Program is where install puts this program.
	Program = "/usr/local/bin/socketplane"
	// packagedProgram is where a package of the distribution installs it.
	packagedProgram = "/usr/bin/socketplane"
)

// otherNames are links to the program. Under these names it is Docker's runtime, the CNI
// plugin and the netavark plugin. Podman looks for the netavark plugin in this directory.
var otherNames = []string{"/usr/local/bin/socketplane-runc", "/usr/local/bin/socketplane-cni", netavarkDir + "/socketplane-netavark"}

const netavarkDir = "/usr/local/lib/netavark"

// Packaged reports whether self is the program of a package. Only the package manager
// installs and removes the files of a package.
func (h *Host) Packaged(self string) bool { return self == packagedProgram }

// program installs self and the links to it where units and users find them.
func (h *Host) program(self string) Step {
	return Step{Name: "program", Do: func(context.Context) (string, error) {
		target := h.path(Program)
		changed := false
		if self != target {
			same, err := sameContent(self, target)
			if err != nil {
				return "", err
			}
			if changed = !same; changed {
				f, err := os.Open(self)
				if err != nil {
					return "", err
				}
				defer f.Close() //nolint:errcheck // only read from
				if err := writeFile(target, 0o755, f); err != nil {
					return "", err
				}
			}
		}
		var names []string
		for _, link := range otherNames {
			to, err := filepath.Rel(filepath.Dir(link), Program)
			if err != nil {
				return "", err
			}
			made, err := ensureLink(h.path(link), to)
			if err != nil {
				return "", err
			}
			changed = changed || made
			names = append(names, filepath.Base(link))
		}
		if !changed {
			return "there already: " + Program, nil
		}
		last := len(names) - 1
		return fmt.Sprintf("%s, also as %s and %s", Program, strings.Join(names[:last], ", "), names[last]), nil
	}}
}

var shells = []string{"bash", "zsh", "fish"}

// completions are the paths where shells look for completion scripts.
var completions = map[string]string{
	"bash": "/usr/share/bash-completion/completions/socketplane",
	"zsh":  "/usr/share/zsh/vendor-completions/_socketplane",
	"fish": "/usr/share/fish/vendor_completions.d/socketplane.fish",
}

// completion installs the completion scripts of the shells on this host. script returns
// the script of one shell.
func (h *Host) completion(script func(shell string) ([]byte, error)) Step {
	return Step{Name: "completion", Do: func(context.Context) (string, error) {
		var wrote []string
		for _, shell := range shells {
			dir := filepath.Dir(completions[shell])
			if _, err := os.Stat(h.path(filepath.Dir(dir))); err != nil {
				continue // the host does not have this shell
			}
			text, err := script(shell)
			if err != nil {
				return "", err
			}
			changed, err := ensureFile(h.path(completions[shell]), text, 0o644)
			if err != nil {
				return "", err
			}
			if changed {
				wrote = append(wrote, shell)
			}
		}
		if len(wrote) == 0 {
			return "nothing to do", nil
		}
		return "for " + strings.Join(wrote, ", "), nil
	}}
}

// ErrNotRoot means that the caller is not root.
var ErrNotRoot = errors.New("this changes the host and must be run as root; try it with sudo")
