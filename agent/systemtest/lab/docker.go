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

// DockerEnv names the version of Docker of a lab whose Options name none, so that
// tests that know nothing of versions run on each.
const DockerEnv = "SOCKETPLANE_LAB_DOCKER"

// dockerProgram runs a program of the root that holds a host's Docker, under the
// name by which it was called.
const dockerProgram = "lab-docker"

//go:embed files/docker.sh
var dockerScript string

// dockerRoot is the root file system that holds the Docker that is wanted, made if
// need be; "" stands for the machine's own Docker.
func dockerRoot(ctx context.Context, opts Options) (string, error) {
	if opts.Docker == "" || opts.NoDocker {
		return "", nil
	}
	cmd := exec.CommandContext(ctx, filepath.Join(opts.Root, "scripts", "docker-root.sh"), opts.Docker)
	cmd.Stderr = opts.Out // it lasts a minute, and says so
	var said strings.Builder
	if opts.Out == nil {
		cmd.Stderr = &said
	}
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("docker %s: %w\n%s", opts.Docker, err, said.String())
	}
	root := strings.TrimSpace(string(out))
	if _, err := os.Stat(filepath.Join(root, "usr", "sbin", "dockerd")); err != nil {
		return "", fmt.Errorf("docker %s: %w; remove %s and try again", opts.Docker, err, root)
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
