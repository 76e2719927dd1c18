package consultest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// BinaryEnv is the environment variable that names the consul program to run.
const BinaryEnv = "SOCKETPLANE_CONSUL"

// Binary returns the path of the consul program. It uses the program that BinaryEnv
// names, else consul on the PATH, else bin/consul under the module root.
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

// moduleRoot returns the nearest directory with a go.mod, starting at the working
// directory, because tests run in the directory of their package.
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
