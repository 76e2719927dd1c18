package setup

import (
	"context"
	_ "embed"
	"os"
)

// ConfigFile is the agent's settings file.
const ConfigFile = "/etc/socketplane/socketplane.toml"

// ConfigText is the settings file as it is installed: everything in it is a
// comment, so that what is built in holds.
//
//go:embed files/socketplane.toml
var ConfigText string

// config writes the settings file; one that is there is the user's.
func (h *Host) config() Step {
	return Step{Name: "settings", Do: func(context.Context) (string, error) {
		if _, err := os.Stat(h.path(ConfigFile)); err == nil {
			return "there already: " + ConfigFile, nil
		}
		// It may hold a token of Consul's: root's alone.
		if _, err := ensureFile(h.path(ConfigFile), []byte(ConfigText), 0o600); err != nil {
			return "", err
		}
		return "wrote " + ConfigFile, nil
	}}
}
