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

// DockerEnv and PodmanEnv name the versions of a lab whose Options name none, so that
// tests that know nothing of versions run on each.
const (
	DockerEnv = "SOCKETPLANE_LAB_DOCKER"
	PodmanEnv = "SOCKETPLANE_LAB_PODMAN"
)

// dockerProgram runs a program of the root that holds a host's Docker, under the
// name by which it was called; podmanProgram does so with Podman.
const (
	dockerProgram = "lab-docker"
	podmanProgram = "lab-podman"
)

//go:embed files/docker.sh
var dockerScript string

//go:embed files/podman.sh
var podmanScript string

// roots are the root file systems with programs that the hosts run instead of the
// machine's; "" stands for the machine's own.
type roots struct {
	Docker string `json:"docker,omitempty"`
	Podman string `json:"podman,omitempty"`
}

// findRoots gives the roots with the versions that are wanted, made if need be.
func findRoots(ctx context.Context, opts Options) (r roots, err error) {
	if !opts.NoDocker {
		if r.Docker, err = debianRoot(ctx, opts, "docker", opts.Docker, "usr/sbin/dockerd"); err != nil {
			return r, err
		}
	}
	r.Podman, err = debianRoot(ctx, opts, "podman", opts.Podman, "usr/bin/podman")
	return r, err
}

// debianRoot is one such root; program is what must be in it.
func debianRoot(ctx context.Context, opts Options, kind, version, program string) (string, error) {
	if version == "" {
		return "", nil
	}
	cmd := exec.CommandContext(ctx, filepath.Join(opts.Root, "scripts", "debian-root.sh"), kind, version)
	cmd.Stderr = opts.Out // it lasts a minute, and says so
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

// dockerLinks are the commands of a host that come from the root that holds its
// Docker. The clients see the host's files and run as they are: they need a C
// library of Debian 12 or newer, and nothing else. The rest need the libraries
// of their own root. The packet filter's programs are among them, since a host has
// one version of them.
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
