package ovs

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"time"
)

// vsctlTimeout limits one call of ovs-vsctl, which waits for ovs-vswitchd.
const vsctlTimeout = 15 * time.Second

// RemoveBridge removes the bridge with all its ports, and the routes to peers that were
// pinned for it. It reports whether it removed a bridge. A bridge without our mark
// belongs to somebody else and stays. The agent must not run, because it would create the
// bridge again. The error wraps ErrUnavailable if Open vSwitch does not run.
func RemoveBridge(ctx context.Context, cfg Config) (bool, error) {
	if cfg.RunDir == "" {
		cfg.RunDir = DefaultRunDir
	}
	if cfg.Socket == "" {
		cfg.Socket = "unix:" + cfg.RunDir + "/db.sock"
	}
	s := &Switch{cfg: cfg}
	if _, err := s.vsctl(ctx, "show"); err != nil {
		return false, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if _, err := s.vsctl(ctx, "br-exists", cfg.Bridge); err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == 2 { // ovs-vsctl(8)
			return false, nil
		}
		return false, err
	}
	for key, value := range bridgeMark {
		got, err := s.vsctl(ctx, "br-get-external-id", cfg.Bridge, key)
		if err != nil {
			return false, err
		}
		if strings.TrimSpace(got) != value {
			return false, nil
		}
	}
	peers, err := s.tunnelEnds(ctx)
	if err != nil {
		return false, err
	}
	if _, err := s.vsctl(ctx, "--if-exists", "del-br", cfg.Bridge); err != nil {
		return false, fmt.Errorf("remove bridge %q: %w", cfg.Bridge, err)
	}
	for _, peer := range peers {
		// A failure does no harm: nothing of ours needs these routes now, and a kernel
		// datapath has none.
		_ = s.appctl(ctx, "ovs/route/del", hostRoute(peer))
	}
	return true, nil
}

// tunnelEnds returns the remote addresses of the bridge's tunnels.
func (s *Switch) tunnelEnds(ctx context.Context) ([]netip.Addr, error) {
	ports, err := s.vsctl(ctx, "list-ports", s.cfg.Bridge)
	if err != nil {
		return nil, err
	}
	var ends []netip.Addr
	for _, port := range strings.Fields(ports) {
		if !strings.HasPrefix(port, tunnelPrefix) {
			continue
		}
		remote, err := s.vsctl(ctx, "--if-exists", "get", "Interface", port, "options:remote_ip")
		if err != nil {
			return nil, err
		}
		if addr, err := netip.ParseAddr(strings.Trim(strings.TrimSpace(remote), `"`)); err == nil {
			ends = append(ends, addr)
		}
	}
	return ends, nil
}

// vsctl runs one ovs-vsctl command and returns its output.
func (s *Switch) vsctl(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, vsctlTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "ovs-vsctl", append([]string{"--db=" + s.cfg.Socket, "--timeout=10"}, args...)...)
	cmd.WaitDelay = time.Second
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("ovs-vsctl %s: %w: %.300s", args[0], err, strings.TrimSpace(stderr.String()))
	}
	return string(out), nil
}
