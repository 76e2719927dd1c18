package cni

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/socketplane/socketplane/agent/api"
)

// DefaultName is the CNI name of the default network, because "default" has another
// meaning for programs that read them. No other network can have this name.
const DefaultName = "socketplane"

// program is the base name of this program when it is not called as the plugin.
const program = "socketplane"

// Setup describes where to install the plugin and its configurations.
type Setup struct {
	Program  string   // path of this program
	BinDir   string   // directory of CNI plugins
	ConfDir  string   // directory of network configurations
	Networks []string // networks to write a configuration for
	Socket   string   // of the agent
}

// conflist is a plugin list as Install writes it. Programs with a library older than CNI
// 1.1 (containerd 1, Podman) reject cniVersion 1.1.0 and ignore cniVersions. Newer ones
// use the highest version in cniVersions.
type conflist struct {
	CNIVersion  string        `json:"cniVersion"`
	CNIVersions []string      `json:"cniVersions,omitempty"`
	Name        string        `json:"name"`
	Plugins     []conflistOne `json:"plugins"`
}

type conflistOne struct {
	Type         string          `json:"type"`
	Network      string          `json:"network,omitempty"`
	Socket       string          `json:"socket,omitempty"`
	Capabilities map[string]bool `json:"capabilities,omitempty"`
}

// Install links the plugin and writes the configurations. It returns a description of its
// changes, one line each. It checks everything before it changes anything.
func (s *Setup) Install() (done []string, err error) {
	link := filepath.Join(s.BinDir, Name)
	linked, err := ourLink(link)
	if err != nil {
		return nil, err
	}
	files := map[string]conflist{}
	var order []string
	for _, network := range s.Networks {
		if err := api.CheckNetworkName(network); err != nil {
			return nil, err
		}
		path := filepath.Join(s.ConfDir, fileName(network))
		if ours, err := isOurs(path); err != nil {
			return nil, err
		} else if !ours {
			files[path] = s.conflist(network)
			order = append(order, path)
		}
	}
	if linked != s.Program {
		if err := replaceLink(s.Program, link); err != nil {
			return nil, err
		}
		done = append(done, "linked "+link+" -> "+s.Program)
	}
	for _, path := range order {
		if err := writeNew(path, files[path]); err != nil {
			return done, err
		}
		done = append(done, fmt.Sprintf("wrote %s: network %q is known to CNI as %q", path, files[path].Plugins[0].Network, files[path].Name))
	}
	if len(done) == 0 {
		done = append(done, "everything is there already")
	}
	return done, nil
}

// Uninstall removes the files of Install. It returns a description of its changes, one
// line each.
func (s *Setup) Uninstall() (done []string, err error) {
	paths, err := filepath.Glob(filepath.Join(s.ConfDir, "1[01]-"+program+"*.conflist"))
	if err != nil {
		return nil, err
	}
	for _, path := range paths {
		if ours, err := isOurs(path); err != nil || !ours {
			continue // only its name looks like ours
		}
		if err := os.Remove(path); err != nil {
			return done, err
		}
		done = append(done, "removed "+path)
	}
	link := filepath.Join(s.BinDir, Name)
	if linked, err := ourLink(link); err != nil {
		return done, err
	} else if linked != "" {
		if err := os.Remove(link); err != nil {
			return done, err
		}
		done = append(done, "removed "+link)
	}
	if len(done) == 0 {
		done = append(done, "nothing is there")
	}
	return done, nil
}

// fileName returns the file name of a network's configuration. Kubernetes uses the first
// file in name order, so the default network comes first.
func fileName(network string) string {
	if network == api.DefaultNetwork {
		return "10-" + program + ".conflist"
	}
	return "11-" + program + "-" + network + ".conflist"
}

func (s *Setup) conflist(network string) conflist {
	one := conflistOne{Type: Name, Network: network, Capabilities: map[string]bool{"ips": true, "mac": true, "portMappings": true}}
	if s.Socket != DefaultSocket {
		one.Socket = s.Socket
	}
	name := network
	if network == api.DefaultNetwork {
		name = DefaultName
	}
	return conflist{CNIVersion: "1.0.0", CNIVersions: []string{"0.4.0", "1.0.0", "1.1.0"}, Name: name, Plugins: []conflistOne{one}}
}

// isOurs reports whether path is a configuration that Install wrote, which may have been
// edited since. It returns false if the file does not exist, and an error if it belongs to
// someone else.
func isOurs(path string) (bool, error) {
	foreign := api.Errorf(api.CodeConflict, "%s is there and is not one of ours; move it away", path)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close() //nolint:errcheck // only read from
	data, err := io.ReadAll(io.LimitReader(f, maxConfig))
	if err != nil {
		return false, err
	}
	var c conflist
	if err := json.Unmarshal(data, &c); err != nil {
		return false, foreign
	}
	for _, p := range c.Plugins {
		if p.Type == Name {
			return true, nil
		}
	}
	return false, foreign
}

// ourLink returns the target of the plugin's link, or "" if it does not exist. It fails if
// path is not a link to a program of our name.
func ourLink(path string) (string, error) {
	target, err := os.Readlink(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil || filepath.Base(target) != program {
		return "", api.Errorf(api.CodeConflict, "%s is there and is not a link to %s; move it away", path, program)
	}
	return target, nil
}

// replaceLink creates a link, or replaces an older one atomically.
func replaceLink(target, path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	next := path + ".new"
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(target, next); err != nil {
		return err
	}
	return os.Rename(next, path)
}

// writeNew writes a new file atomically. It fails if the file exists.
func writeNew(path string, c conflist) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetIndent("", "  ")
	if err := enc.Encode(c); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".socketplane-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) //nolint:errcheck // it has its other name by then, or nobody needs it
	_, err = f.Write(text.Bytes())
	if err := errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return os.Link(f.Name(), path)
}
