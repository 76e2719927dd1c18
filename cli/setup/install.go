package setup

import "context"

// Install describes what to install.
type Install struct {
	Self       string // path of this program
	StateDir   string
	DaemonJSON string
	Missing    func() []string // returns the packages that contain missing programs
	Consul     Consul
	Completion func(shell string) ([]byte, error)
}

// Install returns the installation steps. After them the agent can be started.
func (h *Host) Install(in Install) []Step {
	packaged := h.Packaged(in.Self)
	steps := []Step{
		{Name: "before", Do: func(context.Context) (string, error) { return "", h.Remember(in.StateDir, in.DaemonJSON) }},
		h.packages(in.Missing, in.StateDir),
		h.openvswitch(),
		h.consul(in.Consul, in.StateDir),
	}
	if packaged {
		steps = append(steps, Step{Name: "program", Do: func(context.Context) (string, error) {
			return in.Self + " is of the package, as are links, units and completion", nil
		}})
	} else {
		steps = append(steps, h.program(in.Self))
	}
	steps = append(steps, h.kernel(), h.group(), h.config())
	if !packaged {
		steps = append(steps, h.completion(in.Completion))
	}
	return append(steps, h.units(packaged))
}
