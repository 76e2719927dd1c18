package machine

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// buildImage makes the machines' root file system, or finds it as it was made before.
func buildImage(ctx context.Context, root, kind string) (string, error) {
	cmd := exec.CommandContext(ctx, "scripts/machine-image.sh", kind)
	cmd.Dir, cmd.Stderr = root, os.Stderr // it says what it does: it is a minute
	out, err := cmd.Output()
	if err != nil {
		return "", err
	}
	return filepath.Join(root, strings.TrimSpace(string(out))), nil
}
