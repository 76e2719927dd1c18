package setup

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/socketplane/socketplane/agent/stored"
)

var errNotEmpty error = syscall.ENOTEMPTY

// recordFile, in the state directory, holds how the host was before.
const recordFile = "before.json"

// recordVersion is the layout of a Record.
const recordVersion = 1

// restored are the kernel settings that the agent may change for the whole host
// (link.PrepareHost).
var restored = []string{ipForward, "net/core/rmem_default"}

const ipForward = "net/ipv4/ip_forward"

// Record is how the host was before we came: what uninstall puts back.
type Record struct {
	Version    int               `json:"version"`
	Sysctls    map[string]string `json:"sysctls,omitempty"`
	DaemonJSON bool              `json:"daemon_json"`        // Docker had a configuration
	Group      bool              `json:"group"`              // there was a group of our name
	Consul     string            `json:"consul,omitempty"`   // the Consul that install brought, by path
	Packages   []string          `json:"packages,omitempty"` // that install brought

	ForwardPolicy string `json:"forward_policy,omitempty"` // of iptables' chain FORWARD, before the agent made it DROP

	Unknown stored.Unknown `json:"-"` // what a later release has noted beside
}

// Remember notes how the host is, unless that was noted before. It is called
// before anything is changed: by install, and by the agent when it starts.
func (h *Host) Remember(stateDir, daemonJSON string) error {
	path := h.path(filepath.Join(stateDir, recordFile))
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	r := Record{Version: recordVersion, Sysctls: map[string]string{}}
	for _, name := range restored {
		// A namespace of its own lacks those of the machine.
		if value, err := os.ReadFile(h.path("/proc/sys/" + name)); err == nil {
			r.Sysctls[name] = strings.TrimSpace(string(value))
		}
	}
	_, err := os.Stat(h.path(daemonJSON))
	r.DaemonJSON = err == nil
	r.Group = h.groupExists()
	return h.writeRecord(stateDir, r)
}

// record reads what Remember noted; the zero Record when there is nothing.
func (h *Host) record(stateDir string) (Record, error) {
	path := h.path(filepath.Join(stateDir, recordFile))
	data, err := readFile(path)
	if err != nil || data == nil {
		return Record{}, err
	}
	var r Record
	err = stored.Decode(data, recordVersion, &r)
	if errors.Is(err, stored.ErrNewer) {
		return Record{}, fmt.Errorf("%s: %w", path, err)
	}
	if err != nil {
		return Record{}, fmt.Errorf("%s cannot be read (%w); remove it; uninstall then does not restore how the host was before", path, errors.Join(err, fs.ErrInvalid))
	}
	return r, nil
}

// RememberForwardPolicy notes the policy of FORWARD before the agent changes it,
// unless that was noted before.
func (h *Host) RememberForwardPolicy(stateDir, policy string) error {
	if r, err := h.record(stateDir); err != nil || r.ForwardPolicy != "" {
		return err
	}
	return h.note(stateDir, func(r *Record) { r.ForwardPolicy = policy })
}

// ForwardPolicy is the policy of FORWARD before the agent changed it; empty: it did
// not.
func (h *Host) ForwardPolicy(stateDir string) (string, error) {
	r, err := h.record(stateDir)
	return r.ForwardPolicy, err
}

// ForwardingWasOff says whether the host forwarded no IPv4 packets before we came.
func (h *Host) ForwardingWasOff(stateDir string) (bool, error) {
	r, err := h.record(stateDir)
	return r.Sysctls[ipForward] == "0", err
}

func (h *Host) writeRecord(stateDir string, r Record) error {
	dir := h.path(stateDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	data, err := stored.Encode(r)
	if err != nil {
		return err
	}
	var text bytes.Buffer
	if err := json.Indent(&text, data, "", "  "); err != nil {
		return err
	}
	text.WriteByte('\n')
	_, err = ensureFile(filepath.Join(dir, recordFile), text.Bytes(), 0o600)
	return err
}

// note changes the record.
func (h *Host) note(stateDir string, change func(*Record)) error {
	r, err := h.record(stateDir)
	if err != nil {
		return err
	}
	r.Version = recordVersion
	change(&r)
	return h.writeRecord(stateDir, r)
}
