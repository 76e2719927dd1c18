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

// recordFile, in the state directory, contains the Record.
const recordFile = "before.json"

// recordVersion is the version of the layout of Record.
const recordVersion = 1

// restored are the kernel settings that the agent may change for the whole host
// (link.PrepareHost).
var restored = []string{ipForward, "net/core/rmem_default"}

const ipForward = "net/ipv4/ip_forward"

// Record describes the host before the installation. Uninstall restores it.
type Record struct {
	Version    int               `json:"version"`
	Sysctls    map[string]string `json:"sysctls,omitempty"`
	DaemonJSON bool              `json:"daemon_json"`        // Docker had a configuration file
	Group      bool              `json:"group"`              // the group existed
	Consul     string            `json:"consul,omitempty"`   // path of the Consul that install installed
	Packages   []string          `json:"packages,omitempty"` // packages that install installed

	ForwardPolicy string `json:"forward_policy,omitempty"` // policy of iptables' chain FORWARD before the agent set it to DROP

	Unknown stored.Unknown `json:"-"` // fields that a later release has written
}

// Remember records the state of the host unless that has been done before. install and the
// agent call it before they change anything.
func (h *Host) Remember(stateDir, daemonJSON string) error {
	path := h.path(filepath.Join(stateDir, recordFile))
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	r := Record{Version: recordVersion, Sysctls: map[string]string{}}
	for _, name := range restored {
		// A network namespace lacks some settings of the machine.
		if value, err := os.ReadFile(h.path("/proc/sys/" + name)); err == nil {
			r.Sysctls[name] = strings.TrimSpace(string(value))
		}
	}
	_, err := os.Stat(h.path(daemonJSON))
	r.DaemonJSON = err == nil
	r.Group = h.groupExists()
	return h.writeRecord(stateDir, r)
}

// record returns what Remember recorded, or the zero Record if there is nothing.
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

// RememberForwardPolicy records the policy of FORWARD before the agent changes it, unless
// that has been done before.
func (h *Host) RememberForwardPolicy(stateDir, policy string) error {
	if r, err := h.record(stateDir); err != nil || r.ForwardPolicy != "" {
		return err
	}
	return h.note(stateDir, func(r *Record) { r.ForwardPolicy = policy })
}

// ForwardPolicy returns the policy of FORWARD before the agent changed it, or "" if it did
// not.
func (h *Host) ForwardPolicy(stateDir string) (string, error) {
	r, err := h.record(stateDir)
	return r.ForwardPolicy, err
}

// ForwardingWasOff reports whether the host did not forward IPv4 packets before the
// installation.
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
