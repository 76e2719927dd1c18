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

// ConsulProgram is where install puts Consul when the host has none.
const ConsulProgram = "/usr/local/bin/consul"

// Consul says where Consul may come from.
type Consul struct {
	From    string       // a directory that holds consul, or its release's archive; nothing is downloaded then
	Release Release      // what is downloaded
	Client  *http.Client // to download with
	Needed  bool         // false: a host on its own can do without
	Given   string       // address of a Consul that is there already; none is needed here
}

// consul sees to it that there is a Consul: the one that is here, or the given
// one, or the release.
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
			_ = os.Remove(h.path(ConsulProgram)) // it is none for this machine; the error says it
			return "", err
		}
		err = h.note(stateDir, func(r *Record) { r.Consul = ConsulProgram })
		return fmt.Sprintf("%s (%s) from %s", ConsulProgram, version, source), err
	}}
}

// bringConsul puts Consul in its place and says where it came from.
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

// consulFrom takes the program, or the release's archive, of a directory. The
// archive's checksum has to be the release's; the program is the user's own.
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

// consulVersion asks Consul for its version, which also shows that it runs here.
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
