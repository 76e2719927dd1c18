package setup

import (
	"context"
	_ "embed"
	"os"
	"path/filepath"
	"strings"
)

// systemd units.
const (
	AgentUnit = "socketplane.service"
	ProxyUnit = "socketplane-proxy.service" // disabled by default
	unitDir   = "/etc/systemd/system"
)

//go:embed files/socketplane.service
var agentUnit string

//go:embed files/socketplane-proxy.service
var proxyUnit string

// Systemd reports whether systemd runs this host, see sd_booted(3).
func (h *Host) Systemd() bool {
	_, err := os.Stat(h.path("/run/systemd/system"))
	return err == nil
}

// units installs and enables the units. They start at the next boot; a later step starts
// the agent now.
func (h *Host) units(packaged bool) Step {
	return Step{Name: "units", Remedy: "see: systemctl status socketplane", Do: func(ctx context.Context) (string, error) {
		if !h.Systemd() {
			return "systemd does not run this host: the agent is started in the background, and must be again after a boot (socketplane agent start)", nil
		}
		changed := false
		if !packaged {
			for name, text := range map[string]string{AgentUnit: agentUnit, ProxyUnit: proxyUnit} {
				wrote, err := ensureFile(h.path(filepath.Join(unitDir, name)), []byte(text), 0o644)
				if err != nil {
					return "", err
				}
				changed = changed || wrote
			}
		}
		if changed {
			if _, err := h.Command.Run(ctx, "systemctl", "daemon-reload"); err != nil {
				return "", err
			}
		}
		if state, err := h.Command.Run(ctx, "systemctl", "is-enabled", AgentUnit); err != nil || strings.TrimSpace(state) != "enabled" {
			changed = true
			if _, err := h.Command.Run(ctx, "systemctl", "enable", AgentUnit); err != nil {
				return "", err
			}
		}
		if !changed {
			return "there already: " + AgentUnit, nil
		}
		return AgentUnit + ", at each boot; " + ProxyUnit + ", off", nil
	}}
}

// removeUnits stops and disables the units, and removes them unless they belong to a
// package.
func (h *Host) removeUnits(packaged bool) Step {
	return Step{Name: "units", Do: func(ctx context.Context) (string, error) {
		if !h.Systemd() {
			return "", nil
		}
		var found []string
		for _, unit := range []string{ProxyUnit, AgentUnit} {
			if state, _ := h.Command.Run(ctx, "systemctl", "show", "-p", "LoadState", "--value", unit); strings.TrimSpace(state) != "loaded" {
				continue
			}
			if _, err := h.Command.Run(ctx, "systemctl", "disable", "--now", unit); err != nil {
				return "", err
			}
			found = append(found, unit)
		}
		if len(found) == 0 {
			return "", nil
		}
		if packaged {
			return "stopped and disabled " + strings.Join(found, ", "), nil
		}
		if _, err := h.remove(filepath.Join(unitDir, AgentUnit), filepath.Join(unitDir, ProxyUnit)); err != nil {
			return "", err
		}
		if _, err := h.Command.Run(ctx, "systemctl", "daemon-reload"); err != nil {
			return "", err
		}
		// Otherwise systemd keeps listing a failed unit.
		_, _ = h.Command.Run(ctx, "systemctl", "reset-failed", AgentUnit, ProxyUnit)
		return "removed " + strings.Join(found, ", "), nil
	}}
}
