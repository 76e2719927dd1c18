package cli

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"
)

// placePatience is how long the service manager waits for an agent that waits for its
// place, for example for another host. It is shorter than the unit's TimeoutStartSec.
// After that timeout systemd would restart the agent again and again, while Docker's own
// start waits for it.
const placePatience = 15 * time.Second

// readyAfter reports readiness to the service manager after patience, unless stop is
// called before. By then the agent's socket reports what it waits for.
func readyAfter(patience time.Duration, logger *slog.Logger) (stop func()) {
	timer := time.AfterFunc(patience, func() { ready(logger) })
	return func() { timer.Stop() }
}

// ready reports to the service manager that the agent is ready.
func ready(logger *slog.Logger) {
	if err := notifySystemd("READY=1"); err != nil {
		logger.Warn("systemd goes on waiting", "err", err)
	}
}

// notifySystemd sends a state such as READY=1 to the service manager, see sd_notify(3). It
// does nothing if NOTIFY_SOCKET is not set.
func notifySystemd(state string) error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	// A path that starts with @ is an abstract address, which package net supports.
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("tell systemd %s: %w", state, err)
	}
	defer conn.Close() //nolint:errcheck // it was told by then
	if _, err := conn.Write([]byte(state)); err != nil {
		return fmt.Errorf("tell systemd %s: %w", state, err)
	}
	return nil
}
