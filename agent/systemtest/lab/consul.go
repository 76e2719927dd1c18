package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// consulBinary returns the path of consul: from the PATH, or else from scripts/consul.sh.
// It returns "" if there is none.
func consulBinary(root string) string {
	if path, err := exec.LookPath("consul"); err == nil {
		if path, err = filepath.Abs(path); err == nil {
			return path
		}
	}
	path := filepath.Join(root, "bin", "consul")
	if _, err := os.Stat(path); err != nil {
		return ""
	}
	return path
}

// consulServers returns how many of n hosts run a Consul server: an odd number, at most 3.
func consulServers(n int) int {
	if n < 3 {
		return 1
	}
	return 3
}

// consulConfig returns the configuration of host h's Consul in a lab of n hosts. It keeps
// Consul's default timing (performance.raft_multiplier 5, a leader may be silent for 2.5
// s), because all servers share the few cores of the machine.
func consulConfig(h *Host, n int) string {
	servers := consulServers(n)
	var join []string
	for k := 1; k <= servers; k++ {
		join = append(join, ControlAddr(k).String())
	}
	config := map[string]any{
		"datacenter":           "lab",
		"node_name":            h.Name,
		"data_dir":             filepath.Join(h.Dir(), "consul", "data"),
		"bind_addr":            ControlAddr(h.Number).String(),
		"client_addr":          "127.0.0.1",
		"retry_join":           join,
		"retry_interval":       "500ms",
		"disable_update_check": true,
	}
	if h.Number <= servers {
		config["server"] = true
		config["bootstrap_expect"] = servers
	}
	text, err := json.MarshalIndent(config, "", "  ")
	if err != nil {
		panic(fmt.Sprintf("a map of plain values has no JSON: %v", err)) // cannot happen
	}
	return string(text) + "\n"
}

// awaitLeader waits until host h's Consul knows a leader. It fails after 60 s.
func awaitLeader(ctx context.Context, h *Host) error {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		out, err := h.Exec(ctx, "busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:8500/v1/status/leader")
		if err == nil && strings.Contains(out, ":") {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("consul has no leader: %w; its log ends:\n%s",
				ctx.Err(), tail(filepath.Join(h.Dir(), "log", "consul.log"), 15))
		case <-tick.C:
		}
	}
}
