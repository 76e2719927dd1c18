package setup

import (
	"context"
	"fmt"
	"os"
	"strings"
)

// Group is the group whose members may call the agent.
const Group = "socketplane"

func (h *Host) groupExists() bool {
	data, err := os.ReadFile(h.path("/etc/group"))
	return err == nil && strings.Contains("\n"+string(data), "\n"+Group+":")
}

// group creates the group whose members may call the agent without being root.
func (h *Host) group() Step {
	return Step{Name: "group", Do: func(ctx context.Context) (string, error) {
		if h.groupExists() {
			return "there already: " + Group, nil
		}
		if _, err := h.Command.Run(ctx, "groupadd", "--system", Group); err != nil {
			return "", err
		}
		return fmt.Sprintf("made %s; its members are root over the network: usermod -aG %s NAME", Group, Group), nil
	}}
}
