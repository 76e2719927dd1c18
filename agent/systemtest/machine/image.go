package machine

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// packages are what a machine has besides a minimal system, as a server's
// installer would leave it.
const packages = "systemd,systemd-sysv,dbus,openvswitch-switch,docker.io,iptables,iproute2,nftables,procps,ca-certificates,curl"

// buildImage makes the machines' root file system, of the release that this
// machine runs, or finds it as it was made before.
func buildImage(ctx context.Context, root string) (string, error) {
	release, err := codename()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(release + packages))
	path := filepath.Join(root, "bin", "machine-"+hex.EncodeToString(sum[:6])+".tar")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	fmt.Fprintf(os.Stderr, "machine: making a root file system of %s, once (a minute)\n", release)
	args := []string{"--variant=minbase", "--include=" + packages}
	for _, dir := range []string{"doc", "man", "locale"} {
		args = append(args, "--dpkgopt=path-exclude=/usr/share/"+dir+"/*")
	}
	next := path + ".new.tar"
	defer os.Remove(next) //nolint:errcheck // it has its other name by then
	if _, err := run(exec.CommandContext(ctx, "mmdebstrap", append(args, release, next)...)); err != nil {
		return "", err
	}
	return path, os.Rename(next, path)
}

// codename gives the release's name, os-release(5).
func codename() (string, error) {
	data, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(data)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "VERSION_CODENAME="); ok {
			return strings.Trim(name, `"`), nil
		}
	}
	return "", fmt.Errorf("os-release names no release: machines are made on Debian and Ubuntu")
}
