package docker

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
)

// maxConfig bounds a bundle's config.json, in bytes; Docker's are below 100 KiB.
const maxConfig = 16 << 20

// ociHook is one entry of config.json's hooks (OCI runtime-spec, config.md).
type ociHook struct {
	Path    string   `json:"path"`
	Args    []string `json:"args"`
	Timeout int      `json:"timeout"` // seconds
}

// hookEntries are our hooks by their phase.
func hookEntries(self, socket string) []struct {
	phase string
	hook  ociHook
} {
	entry := func(name string, timeout int) ociHook {
		h := ociHook{Path: self, Args: []string{"socketplane", HookCommand, name}, Timeout: timeout}
		if socket != "" {
			h.Args = append(h.Args, socket)
		}
		return h
	}
	return []struct {
		phase string
		hook  ociHook
	}{
		// In the host's namespaces, when the container's exist and before its process runs.
		{"createRuntime", entry(hookCreateRuntime, 30)},
		{"poststop", entry(hookPoststop, 10)},
	}
}

// injectHooks adds our hooks to config.json and leaves all else as it is.
func injectHooks(path, self, socket string) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("bundle: %w", err)
	}
	data, err := readBounded(path, maxConfig)
	if err != nil {
		return fmt.Errorf("bundle: %w", err)
	}
	mended, err := withHooks(data, self, socket)
	if err != nil {
		return fmt.Errorf("bundle's %s: %w", path, err)
	}
	if bytes.Equal(mended, data) {
		return nil
	}
	// The bundle lives on a tmpfs and ends with the container: no sync.
	return replaceFile(path, mended, info.Mode().Perm(), false)
}

func withHooks(config []byte, self, socket string) ([]byte, error) {
	o, err := parseObject(config)
	if err != nil {
		return nil, err
	}
	hooks, err := o.child("hooks")
	if err != nil {
		return nil, err
	}
	for _, e := range hookEntries(self, socket) {
		var list []json.RawMessage
		if raw, ok := hooks.values[e.phase]; ok {
			if err := json.Unmarshal(raw, &list); err != nil {
				return nil, fmt.Errorf("hooks of %s: %w", e.phase, err)
			}
		}
		if contains(list, e.hook) {
			continue
		}
		raw, err := json.Marshal(e.hook)
		if err != nil {
			return nil, fmt.Errorf("hook of %s: %w", e.phase, err)
		}
		hooks.set(e.phase, join(append(list, raw)))
	}
	o.set("hooks", hooks.bytes())
	return o.bytes(), nil
}

// contains says whether a hook of ours is in the list already.
func contains(list []json.RawMessage, h ociHook) bool {
	for _, raw := range list {
		var have ociHook
		if json.Unmarshal(raw, &have) == nil && have.Path == h.Path && len(have.Args) > 2 &&
			have.Args[1] == h.Args[1] && have.Args[2] == h.Args[2] {
			return true
		}
	}
	return false
}

// join writes a JSON array of values as they are.
func join(list []json.RawMessage) json.RawMessage {
	parts := make([][]byte, len(list))
	for i, raw := range list {
		parts[i] = raw
	}
	return append(append([]byte{'['}, bytes.Join(parts, []byte{','})...), ']')
}
