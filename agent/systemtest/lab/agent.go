package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"time"
)

// agentConfig returns the settings file of a host's agent.
func agentConfig(h *Host) string {
	return fmt.Sprintf(`# written by the lab
[host]
name = %q

[cluster]
iface = "br-phy"

[consul]
address = "http://127.0.0.1:8500"
`, h.Name)
}

// agentStatus is the part of `socketplane agent status -o json` that the lab uses.
type agentStatus struct {
	Ready bool `json:"ready"`
	Peers []struct {
		Tunnel string `json:"tunnel"`
	} `json:"peers"`
}

// agents starts the agents and waits until each has a tunnel to every other host.
func (b *builder) agents(ctx context.Context, l *Lab) error {
	err := each(l.hosts, 8, func(h *Host) error {
		_, err := h.Exec(ctx, "socketplane", "agent", "start")
		return err
	})
	if err != nil {
		return err
	}
	err = each(l.hosts, 0, func(h *Host) error { return h.AwaitAgent(ctx, len(l.hosts)-1) })
	if err != nil {
		return err
	}
	b.progress.step("agents, each with a tunnel to every other host")
	return nil
}

// AwaitAgent waits until the host's agent is ready and has a tunnel to each of the given
// number of peers. It fails after one minute.
func (h *Host) AwaitAgent(ctx context.Context, peers int) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		out, err := h.Exec(ctx, "socketplane", "agent", "status", "-o", "json")
		// The exit code does not matter, only the status.
		var s agentStatus
		if json.Unmarshal([]byte(out), &s) == nil && s.complete(peers) {
			return nil
		}
		select {
		case <-ctx.Done():
			if err != nil {
				out += err.Error()
			}
			return fmt.Errorf("the agent is not ready with %d peers: %w; its status:\n%s\nits log ends:\n%s",
				peers, ctx.Err(), out, tail(filepath.Join(h.Dir(), "log", "socketplane.log"), 20))
		case <-tick.C:
		}
	}
}

func (s agentStatus) complete(peers int) bool {
	if !s.Ready || len(s.Peers) != peers {
		return false
	}
	for _, p := range s.Peers {
		if p.Tunnel == "" {
			return false
		}
	}
	return true
}
