package setup

import "context"

// ovsService is the service of Open vSwitch on Debian and Ubuntu.
const ovsService = "openvswitch-switch"

// openvswitch makes sure that the switch is running. A package may have been installed
// without being started, and the agent cannot start without the switch.
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
