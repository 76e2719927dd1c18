package setup

import (
	"context"
	_ "embed"
	"os"
)

// ConfigFile is the agent's settings file.
const ConfigFile = "/etc/socketplane/socketplane.toml"

// ConfigText is the settings file that install writes. Everything in it is a comment, so
// the built-in settings apply.
//
//go:embed files/socketplane.toml
var ConfigText string

// config writes the settings file. It does not change an existing file, which belongs to
// the user.
func (h *Host) config() Step {
	return Step{Name: "settings", Do: func(context.Context) (string, error) {
		if _, err := os.Stat(h.path(ConfigFile)); err == nil {
			return "there already: " + ConfigFile, nil
		}
		// Only for root, because it may contain a token of Consul.
		if _, err := ensureFile(h.path(ConfigFile), []byte(ConfigText), 0o600); err != nil {
			return "", err
		}
		return "wrote " + ConfigFile, nil
	}}
}
