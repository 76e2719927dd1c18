package lab

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
)

// files writes the files in the hosts' own directories, and the directory that is
// /usr/local/sbin in all of them.
func (b *builder) files(l *Lab) error {
	var names strings.Builder
	names.WriteString("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n")
	for _, h := range l.hosts {
		fmt.Fprintf(&names, "%s %s\n", h.Addr, h.Name)
	}
	for _, h := range l.hosts {
		for _, d := range []string{
			"etc/docker", "etc/openvswitch", "etc/socketplane", "etc/cni", "etc/networks", "opt/cni",
			"lib/docker", "lib/containerd", "lib/openvswitch", "lib/socketplane", "lib/cni", "lib/containers",
			"log/openvswitch", "consul",
		} {
			if err := os.MkdirAll(filepath.Join(h.Dir(), d), 0o755); err != nil {
				return err
			}
		}
		contents := map[string]string{
			"etc/hosts":    names.String(),
			"etc/hostname": h.Name + "\n",
			// No name server, so that lookups of other names fail at once.
			"etc/resolv.conf":    "# the lab has no name server\n",
			"consul/consul.json": consulConfig(h, len(l.hosts)),
		}
		if !b.opts.Bare {
			contents["etc/socketplane/socketplane.toml"] = agentConfig(h)
		}
		for name, text := range contents {
			if err := os.WriteFile(filepath.Join(h.Dir(), name), []byte(text), 0o644); err != nil {
				return err
			}
		}
	}
	return b.commands()
}

// commands fills the hosts' /usr/local/sbin with scripts and links, including links to the
// machine's own commands there. It links programs instead of copying them, so that hosts
// run a rebuilt binary at its next start.
func (b *builder) commands() error {
	dir := filepath.Join(StateDir, "sbin")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	links := map[string]string{}
	machine, err := os.ReadDir("/usr/local/sbin")
	if err != nil {
		return err
	}
	for _, e := range machine {
		links[e.Name()] = "/run/lab/machine-sbin/" + e.Name()
	}
	socketplane := filepath.Join(b.opts.Root, "bin", "socketplane")
	links["socketplane"], links["socketplane-runc"] = socketplane, socketplane
	if cnitool := filepath.Join(b.opts.Root, "bin", "cnitool"); isFile(cnitool) {
		links["cnitool"] = cnitool
	}
	if consul := consulBinary(b.opts.Root); consul != "" {
		links["consul"] = consul
	}
	links["lab-ovs"] = "lab-service"
	scripts := map[string]string{"lab-service": serviceScript}
	if b.roots.Docker != "" {
		maps.Copy(links, dockerLinks(b.roots.Docker))
		scripts[dockerProgram] = dockerScript
	}
	if b.roots.Podman != "" {
		links["podman"] = podmanProgram
		scripts[podmanProgram] = podmanScript
	}
	for name, target := range links {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	for name, text := range scripts {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			return err
		}
	}
	return nil
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}
