package setup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
)

// ConsulProgram is where install puts Consul if the host has none.
const ConsulProgram = "/usr/local/bin/consul"

// Consul describes where to get Consul.
type Consul struct {
	From    string       // directory that contains consul or its release archive; if set, nothing is downloaded
	Release Release      // release to download
	Client  *http.Client // for the download
	Needed  bool         // false: a host without a cluster can do without
	Given   string       // address of an existing Consul; if set, none is installed
}

// consul makes sure that the host has a Consul: the given one, an installed one, or the
// release.
func (h *Host) consul(c Consul, stateDir string) Step {
	remedy := "put a consul on the PATH, or give a directory that holds it (or " + filepath.Base(c.Release.URL) + ") with --from DIR"
	return Step{Name: "consul", Remedy: remedy, Do: func(ctx context.Context) (string, error) {
		if c.Given != "" {
			return "the one at " + c.Given + " is used", nil
		}
		if path, err := h.Command.Find("consul"); err == nil {
			version, err := h.consulVersion(ctx, path)
			if err != nil {
				return "", err
			}
			return fmt.Sprintf("there already: %s (%s)", path, version), nil
		}
		source, err := h.bringConsul(ctx, c)
		if err != nil {
			if !c.Needed {
				return fmt.Sprintf("none (%v). This host alone needs none; before a cluster is made or joined, %s and run install again", err, remedy), nil
			}
			return "", err
		}
		version, err := h.consulVersion(ctx, h.path(ConsulProgram))
		if err != nil {
			_ = os.Remove(h.path(ConsulProgram)) // it does not run on this machine, as the error says
			return "", err
		}
		err = h.note(stateDir, func(r *Record) { r.Consul = ConsulProgram })
		return fmt.Sprintf("%s (%s) from %s", ConsulProgram, version, source), err
	}}
}

// bringConsul installs Consul and returns a description of its source.
func (h *Host) bringConsul(ctx context.Context, c Consul) (string, error) {
	into := h.path(ConsulProgram)
	if c.From != "" {
		return consulFrom(c.From, c.Release, into)
	}
	if c.Release.URL == "" {
		return "", errors.New("there is no release for this kind of machine")
	}
	f, err := os.CreateTemp("", "socketplane-consul-*.zip")
	if err != nil {
		return "", err
	}
	defer os.Remove(f.Name()) //nolint:errcheck // nobody needs it
	defer f.Close()           //nolint:errcheck // what was written was verified
	fmt.Fprintf(h.Out, "  downloading %s\n", c.Release.URL)
	err = h.telling("consul", func() error { return fetch(ctx, c.Client, c.Release, f) })
	if err != nil {
		return "", err
	}
	return c.Release.URL + ", its checksum verified", unpack(f, "consul", into)
}

// consulFrom installs the program, or the program in the release archive, from a
// directory. It checks the checksum of the archive, but trusts the user's program.
func consulFrom(dir string, r Release, into string) (string, error) {
	program := filepath.Join(dir, "consul")
	f, err := os.Open(program)
	if err == nil {
		defer f.Close() //nolint:errcheck // only read from
		if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
			return "", errors.Join(fmt.Errorf("%s is no program", program), err)
		}
		return program, writeFile(into, 0o755, f)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	archive := filepath.Join(dir, filepath.Base(r.URL))
	f, err = os.Open(archive)
	if errors.Is(err, fs.ErrNotExist) || r.URL == "" {
		return "", fmt.Errorf("%s holds neither consul nor %s", dir, filepath.Base(r.URL))
	}
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // only read from
	if err := verify(f, r.SHA256); err != nil {
		return "", fmt.Errorf("%s: %w", archive, err)
	}
	return archive + ", its checksum verified", unpack(f, "consul", into)
}

// consulVersion returns the version of Consul, which also shows that the program runs
// here.
func (h *Host) consulVersion(ctx context.Context, path string) (string, error) {
	out, err := h.Command.Run(ctx, path, "version")
	if err != nil {
		return "", err
	}
	first, _, _ := strings.Cut(out, "\n")
	if !strings.HasPrefix(first, "Consul v") {
		return "", fmt.Errorf("%s says %.60q for a version: it is no Consul", path, first)
	}
	return strings.TrimPrefix(first, "Consul "), nil
}
