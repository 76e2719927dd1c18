package oci

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"

	"github.com/socketplane/socketplane/agent/jsonobject"
	"github.com/socketplane/socketplane/agent/wholefile"
)

// maxConfig bounds a bundle's config.json, in bytes. Docker's are below 100 KiB.
const maxConfig = 16 << 20

// ociHook is one entry of the hooks in config.json (OCI runtime-spec, config.md).
type ociHook struct {
	Path    string   `json:"path"`
	Args    []string `json:"args"`
	Timeout int      `json:"timeout"` // seconds
}

// phase is when our hook runs: in the host's namespaces, after the container's namespaces
// exist and before its process runs.
const phase = "createRuntime"

func hookEntry(self, socket string) ociHook {
	h := ociHook{Path: self, Args: []string{"socketplane", HookCommand, hookCreateRuntime}, Timeout: 30}
	if socket != "" {
		h.Args = append(h.Args, socket)
	}
	return h
}

// injectHook adds our hook to config.json and keeps everything else.
func injectHook(path, self, socket string) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("bundle: %w", err)
	}
	data, err := wholefile.Read(path, maxConfig)
	if err != nil {
		return fmt.Errorf("bundle: %w", err)
	}
	mended, err := withHook(data, self, socket)
	if err != nil {
		return fmt.Errorf("bundle's %s: %w", path, err)
	}
	if bytes.Equal(mended, data) {
		return nil
	}
	// No sync: the bundle is on a tmpfs and is deleted with the container.
	return wholefile.Replace(path, mended, info.Mode().Perm(), false)
}

func withHook(config []byte, self, socket string) ([]byte, error) {
	o, err := jsonobject.Parse(config)
	if err != nil {
		return nil, err
	}
	hooks, err := o.Child("hooks")
	if err != nil {
		return nil, err
	}
	hook := hookEntry(self, socket)
	var list []json.RawMessage
	if raw := hooks.Get(phase); raw != nil {
		if err := json.Unmarshal(raw, &list); err != nil {
			return nil, fmt.Errorf("hooks of %s: %w", phase, err)
		}
	}
	if contains(list, hook) {
		return config, nil
	}
	raw, err := json.Marshal(hook)
	if err != nil {
		return nil, fmt.Errorf("hook of %s: %w", phase, err)
	}
	hooks.Set(phase, join(append(list, raw)))
	o.Set("hooks", hooks.Bytes())
	return o.Bytes(), nil
}

// contains reports whether our hook is in the list already.
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

// join returns a JSON array of the unchanged values.
func join(list []json.RawMessage) json.RawMessage {
	parts := make([][]byte, len(list))
	for i, raw := range list {
		parts[i] = raw
	}
	return append(append([]byte{'['}, bytes.Join(parts, []byte{','})...), ']')
}
