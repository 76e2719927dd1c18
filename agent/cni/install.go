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

// DefaultName is the name of the default network among CNI configurations:
// "default" means something else to those who read them. No network can be
// called so.
const DefaultName = "socketplane"

// program is what we are called when we are not the plugin.
const program = "socketplane"

// Setup is where the plugin and its configurations go.
type Setup struct {
	Program  string   // path of this program
	BinDir   string   // of CNI plugins
	ConfDir  string   // of network configurations
	Networks []string // of which a configuration is written
	Socket   string   // of the agent
}

// conflist is a list of plugins, as we write it. Programs with a library older
// than CNI 1.1 (containerd 1, Podman) refuse cniVersion 1.1.0 and know no
// cniVersions; newer ones take the highest of these.
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

// Install links the plugin and writes the configurations. It says what it did,
// a line each. Everything is looked at before anything is done.
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

// Uninstall removes what Install made. It says what it did, a line each.
func (s *Setup) Uninstall() (done []string, err error) {
	paths, err := filepath.Glob(filepath.Join(s.ConfDir, "1[01]-"+program+"*.conflist"))
	if err != nil {
		return nil, err
	}
	for _, path := range paths {
		if ours, err := isOurs(path); err != nil || !ours {
			continue // it only looks like one of ours
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

// fileName: the first in the order of names is what Kubernetes takes, and that
// is the default one where both are.
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

// isOurs says whether a configuration is there that Install wrote, perhaps
// edited since; one of others is an error.
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

// ourLink gives what the plugin's link leads to, "" when none is there; what is
// no link to this program, here or elsewhere, is an error.
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

// replaceLink makes a link, in place of an older one of ours. There is a link
// at every moment.
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

// writeNew writes a file that is not there yet; readers see all of it or none.
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
