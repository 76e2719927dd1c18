package cli

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// unitName is the systemd unit that a package or `install` installs.
const unitName = "socketplane.service"

// underSystemd reports whether systemd runs this host and has our unit.
func underSystemd() bool {
	if _, err := os.Stat("/run/systemd/system"); err != nil { // sd_booted(3)
		return false
	}
	for _, dir := range []string{"/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"} {
		if _, err := os.Stat(filepath.Join(dir, unitName)); err == nil {
			return true
		}
	}
	return false
}

// systemctl runs one systemctl command on our unit, with our output streams.
func (a *app) systemctl(verb string) error {
	cmd := exec.Command("systemctl", verb, unitName)
	cmd.Stdout, cmd.Stderr = a.stdout, a.stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("systemctl %s %s failed (%w); see: journalctl -u %s", verb, unitName, err, unitName)
	}
	return nil
}
