package consultest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// BinaryEnv names the environment variable that says which consul to run.
const BinaryEnv = "SOCKETPLANE_CONSUL"

// Binary finds the consul program: what BinaryEnv names, else the one on the
// PATH, else bin/consul under the module's root.
func Binary() (string, error) {
	if path := os.Getenv(BinaryEnv); path != "" {
		path, err := exec.LookPath(path)
		if err != nil {
			return "", fmt.Errorf("consul named by %s: %w", BinaryEnv, err)
		}
		return path, nil
	}
	if path, err := exec.LookPath("consul"); err == nil {
		return path, nil
	}
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	path := filepath.Join(root, "bin", "consul")
	if _, err := exec.LookPath(path); err != nil {
		return "", fmt.Errorf("no consul: set %s, put consul on the PATH, or build it as %s", BinaryEnv, path)
	}
	return path, nil
}

// moduleRoot is the nearest directory upwards that has a go.mod: tests run in
// their package's directory.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the module's root: %w", err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", fmt.Errorf("no consul: set %s or put consul on the PATH", BinaryEnv)
		}
		dir = parent
	}
}
