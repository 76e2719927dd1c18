package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// rmemDefault is the kernel's default size of socket receive buffers, in bytes. It applies
// to the whole machine, not to a namespace.
const rmemDefault = "/proc/sys/net/core/rmem_default"

// afPacketBuffer is the receive buffer of the userspace switch's AF_PACKET sockets while
// the lab is up, in bytes. A burst overruns the usual 208 KiB.
const afPacketBuffer = "8388608"

// manifest records what Down must restore. It is written before the machine is changed, so
// that a crash leaves nothing unrecorded.
type manifest struct {
	Hosts   int      `json:"hosts"`
	Bare    bool     `json:"bare"`
	Rmem    string   `json:"rmem_default"` // the previous value
	Created []string `json:"created"`      // mount points that the machine lacked

	Roots roots `json:"roots"` // programs to run instead of the machine's
}

func manifestPath() string { return filepath.Join(StateDir, "lab.json") }

func loadManifest() (*manifest, error) { return readManifest(manifestPath()) }

func readManifest(path string) (*manifest, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	m := new(manifest)
	if err := json.Unmarshal(data, m); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}

// neighbour returns the manifest of another lab on this machine, or nil if there is none.
// The last lab that goes down restores what the labs changed on the machine.
func neighbour() *manifest {
	paths, err := filepath.Glob(usualStateDir + "*/lab.json")
	if err != nil {
		return nil
	}
	for _, path := range paths {
		if path == manifestPath() {
			continue
		}
		if m, err := readManifest(path); err == nil {
			return m
		}
	}
	return nil
}

// mountPoints returns the directories that each host has for itself. If the machine lacks
// one, the lab creates it empty, and Down removes it.
func mountPoints() []string {
	return []string{
		"/etc/docker", "/etc/openvswitch", "/etc/socketplane", "/etc/cni", "/opt/cni",
		"/var/lib/docker", "/var/lib/containerd", "/var/lib/openvswitch", "/var/lib/socketplane", "/var/lib/cni", "/var/lib/containers",
		"/usr/local/sbin",
	}
}

// claim creates StateDir and the manifest. It returns ErrUp if a lab exists. Creating the
// directory is atomic, so only one caller gets the lab.
func claim(opts Options, r roots) error {
	stale, err := namespaces()
	if err != nil {
		return err
	}
	if len(stale) > 0 {
		return ErrUp
	}
	if err := os.Mkdir(StateDir, 0o755); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return ErrUp
		}
		return err
	}
	rmem, err := os.ReadFile(rmemDefault)
	if err != nil {
		return err
	}
	m := manifest{Hosts: opts.Hosts, Bare: opts.Bare, Rmem: strings.TrimSpace(string(rmem)), Roots: r}
	var theirs []string
	if n := neighbour(); n != nil {
		m.Rmem, theirs = n.Rmem, n.Created
	}
	for _, d := range mountPoints() {
		if _, err := os.Stat(d); errors.Is(err, fs.ErrNotExist) || slices.Contains(theirs, d) {
			m.Created = append(m.Created, d)
		}
	}
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	tmp := manifestPath() + ".new"
	if err := os.WriteFile(tmp, append(data, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, manifestPath())
}

// machine makes the two changes outside of the namespaces: missing mount points, and the
// default receive buffer.
func (b *builder) machine() error {
	for _, d := range mountPoints() {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	return os.WriteFile(rmemDefault, []byte(afPacketBuffer), 0o644)
}

// checkTools returns an error that names all missing tools.
func checkTools(opts Options) error {
	need := []string{
		"ip", "nsenter", "setpriv", "ethtool", "nft", "tini", "busybox",
		"ovsdb-server", "ovsdb-tool", "ovs-vswitchd", "ovs-vsctl",
	}
	if !opts.NoDocker {
		need = append(need, "dockerd", "docker", "containerd", "runc", "iptables")
	}
	var missing []string
	for _, tool := range need {
		if _, err := exec.LookPath(tool); err != nil {
			missing = append(missing, tool)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("not on the PATH: %s; scripts/deps.sh installs what is missing", strings.Join(missing, ", "))
	}
	if opts.Bare {
		return nil
	}
	if _, err := os.Stat(filepath.Join(opts.Root, "bin", "socketplane")); err != nil {
		return fmt.Errorf("socketplane is not built (%w); make build", err)
	}
	if consulBinary(opts.Root) == "" {
		return errors.New("no consul on the PATH and none at bin/consul; scripts/consul.sh makes it")
	}
	return nil
}
