package setup

import "context"

// ovsService is Open vSwitch's, of Debian and Ubuntu.
const ovsService = "openvswitch-switch"

// openvswitch sees to it that the switch runs: a package may have been installed
// without being started, and the agent cannot start without it.
func (h *Host) openvswitch() Step {
	return Step{Name: "switch", Remedy: "see /var/log/openvswitch", Do: func(ctx context.Context) (string, error) {
		runs := func() error {
			_, err := h.Command.Run(ctx, "ovs-vsctl", "--timeout=10", "show")
			return err
		}
		if runs() == nil {
			return "Open vSwitch runs", nil
		}
		start := []string{"service", ovsService, "start"}
		if h.Systemd() {
			start = []string{"systemctl", "enable", "--now", ovsService}
		}
		if _, err := h.Command.Run(ctx, start[0], start[1:]...); err != nil {
			return "", err
		}
		return "started Open vSwitch", runs()
	}}
}
