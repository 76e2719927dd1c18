package machine

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// BuildImage makes the machines' root file system, of a kind that
// scripts/machine-image.sh knows, or finds it as it was made before, and gives its path.
// It asks the package mirror, so it has to come before a network namespace without a way out.
func BuildImage(ctx context.Context, root, kind string) (string, error) {
	cmd := exec.CommandContext(ctx, "scripts/machine-image.sh", kind)
	cmd.Dir, cmd.Stderr = root, os.Stderr // it says what it does: it is a minute
	out, err := cmd.Output()
	if err != nil {
		return "", err
	}
	return filepath.Join(root, strings.TrimSpace(string(out))), nil
}
