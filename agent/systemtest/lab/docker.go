package lab

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// DockerEnv and PodmanEnv are the environment variables with the versions for a lab whose
// Options name none. With them, tests that do not name versions run with any.
const (
	DockerEnv = "SOCKETPLANE_LAB_DOCKER"
	PodmanEnv = "SOCKETPLANE_LAB_PODMAN"
)

// dockerProgram runs programs from the root file system with a host's Docker, under the
// name by which it is called. podmanProgram does the same with Podman.
const (
	dockerProgram = "lab-docker"
	podmanProgram = "lab-podman"
)

//go:embed files/docker.sh
var dockerScript string

//go:embed files/podman.sh
var podmanScript string

// roots are the root file systems with programs that the hosts run instead of the
// machine's. "" means the machine's own programs.
type roots struct {
	Docker string `json:"docker,omitempty"`
	Podman string `json:"podman,omitempty"`
}

// findRoots returns the root file systems with the requested versions. It creates missing
// ones.
func findRoots(ctx context.Context, opts Options) (r roots, err error) {
	if !opts.NoDocker {
		if r.Docker, err = debianRoot(ctx, opts, "docker", opts.Docker, "usr/sbin/dockerd"); err != nil {
			return r, err
		}
	}
	r.Podman, err = debianRoot(ctx, opts, "podman", opts.Podman, "usr/bin/podman")
	return r, err
}

// debianRoot returns the path of one root file system. It fails if program is not in it.
func debianRoot(ctx context.Context, opts Options, kind, version, program string) (string, error) {
	if version == "" {
		return "", nil
	}
	cmd := exec.CommandContext(ctx, filepath.Join(opts.Root, "scripts", "debian-root.sh"), kind, version)
	cmd.Stderr = opts.Out // it takes a minute and prints its progress
	var said strings.Builder
	if opts.Out == nil {
		cmd.Stderr = &said
	}
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", kind, version, err, said.String())
	}
	root := strings.TrimSpace(string(out))
	if _, err := os.Stat(filepath.Join(root, program)); err != nil {
		return "", fmt.Errorf("%s %s: %w; remove %s and try again", kind, version, err, root)
	}
	return root, nil
}

// dockerLinks returns the commands of a host that come from the root file system with its
// Docker. The clients run directly and see the host's files. They need only a C library of
// Debian 12 or newer. The others need the libraries of their own root. They include the
// packet filter's programs, because a host has only one version of them.
func dockerLinks(root string) map[string]string {
	links := map[string]string{}
	for _, name := range []string{"docker", "docker-compose", "ctr"} {
		links[name] = filepath.Join(root, "usr", "bin", name)
	}
	for _, name := range []string{
		"dockerd", "containerd", "runc",
		"iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore",
	} {
		links[name] = dockerProgram
	}
	return links
}
