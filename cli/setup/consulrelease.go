package setup

import (
	"context"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// At returns the release on a mirror at base with the layout of
// releases.hashicorp.com/consul.
func (r Release) At(base string) Release {
	if r.URL != "" {
		r.URL = strings.TrimRight(base, "/") + "/" + r.Version + "/" + path.Base(r.URL)
	}
	return r
}

// FetchConsul downloads a release of Consul, verifies it, and writes its program to file.
// It stores the archive in the same directory until it is done.
func FetchConsul(ctx context.Context, client *http.Client, r Release, file string) error {
	archive, err := os.CreateTemp(filepath.Dir(file), ".consul-*.zip")
	if err != nil {
		return err
	}
	defer os.Remove(archive.Name()) //nolint:errcheck // nobody needs it
	defer archive.Close()           //nolint:errcheck // what was written was verified
	if err := fetch(ctx, client, r, archive); err != nil {
		return err
	}
	return unpack(archive, "consul", file)
}
