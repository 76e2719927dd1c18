package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const (
	// socketName is the unix socket of Consul's HTTP API, in Consul's directory.
	socketName = "http.sock"
	// maxSocketPath is how many bytes the path of a unix socket may have: sun_path
	// has 108, and the last one is NUL, unix(7).
	maxSocketPath = 107
)

// socketURL is the address of a unix socket, as CONSUL_HTTP_ADDR and
// state.OpenConsul take it.
func socketURL(path string) string { return "unix://" + path }

// checkSocketPath says why Consul could not listen on a path that comes from the
// state directory's name.
func checkSocketPath(path string) error {
	if len(path) > maxSocketPath {
		return fmt.Errorf("the state directory's name is too long: Consul's socket would be %s, which has %d bytes, and a unix socket's path may have %d; stop the agent, move the directory, and set host.state_dir to a shorter name",
			path, len(path), maxSocketPath)
	}
	// Consul splits its addresses at white space and expands {{ }} in them; the rest
	// means something else in the URL.
	if i := strings.IndexFunc(path, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`{}%?#\`, r) }); i >= 0 {
		return fmt.Errorf("the state directory's name does not serve for Consul's socket (%q): it may hold letters, digits and /._-+=,:@~ only; stop the agent, move the directory, and set host.state_dir to another name", path)
	}
	return nil
}

// prepareDir makes Consul's directory root's alone. Consul gives the socket its
// mode only after it has made it: until then the directory keeps others away.
func prepareDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("directory of Consul: %w", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return fmt.Errorf("directory of Consul: %w", err)
	}
	return nil
}

// isSocket says whether a unix socket is there; nobody may listen on it.
func isSocket(path string) bool {
	fi, err := os.Lstat(path)
	return err == nil && fi.Mode()&fs.ModeSocket != 0
}

// removeStale takes away what a Consul that no longer runs has left and the next
// one must not find: its socket, and services and checks. We register none of
// these; one that somebody registered makes Consul send requests, and Consul keeps
// it in its data over restarts.
func removeStale(dir string) error {
	err := os.Remove(filepath.Join(dir, socketName))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	for _, name := range []string{"services", "checks", "proxies"} {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, "data", name)))
	}
	if err != nil {
		return fmt.Errorf("remove what an earlier Consul has left: %w", err)
	}
	return nil
}
