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
	// socketName is the name of the unix socket of Consul's HTTP API, in Consul's
	// directory.
	socketName = "http.sock"
	// maxSocketPath is the maximum length of a unix socket's path in bytes. See unix(7):
	// sun_path has 108 bytes, and the last one is NUL.
	maxSocketPath = 107
)

// socketURL returns the address of a unix socket in the form for CONSUL_HTTP_ADDR and
// state.OpenConsul.
func socketURL(path string) string { return "unix://" + path }

// checkSocketPath returns an error if Consul cannot listen on path, which depends on the
// name of the state directory.
func checkSocketPath(path string) error {
	if len(path) > maxSocketPath {
		return fmt.Errorf("the state directory's name is too long: Consul's socket would be %s, which has %d bytes, and a unix socket's path may have %d; stop the agent, move the directory, and set host.state_dir to a shorter name",
			path, len(path), maxSocketPath)
	}
	// Consul splits its addresses at white space and expands {{ }} in them. The other
	// characters have a special meaning in a URL.
	if i := strings.IndexFunc(path, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`{}%?#\`, r) }); i >= 0 {
		return fmt.Errorf("the state directory's name does not serve for Consul's socket (%q): it may hold letters, digits and /._-+=,:@~ only; stop the agent, move the directory, and set host.state_dir to another name", path)
	}
	return nil
}

// prepareDir creates Consul's directory with access for root only. Consul sets the mode
// of its socket only after it created it; until then, the directory's mode protects the
// socket.
func prepareDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("directory of Consul: %w", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return fmt.Errorf("directory of Consul: %w", err)
	}
	return nil
}

// isSocket reports whether path is a unix socket, even if no process listens on it.
func isSocket(path string) bool {
	fi, err := os.Lstat(path)
	return err == nil && fi.Mode()&fs.ModeSocket != 0
}

// removeStale removes files of an earlier Consul that the next one must not find: its
// socket, and registered services and checks. The agent never registers any. Consul keeps
// those that others registered over restarts, and they make it send requests.
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
