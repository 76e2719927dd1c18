package cli

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"
)

// placePatience is how long the service manager is let wait for an agent that
// waits for its place, for another host, say. It is below the unit's
// TimeoutStartSec, at whose end the agent would be ended and begin anew, over and
// over, and Docker's own start waits for ours meanwhile.
const placePatience = 15 * time.Second

// readyAfter tells the service manager after a while that the agent is there,
// unless it is stopped before: its socket says what it waits for.
func readyAfter(patience time.Duration, logger *slog.Logger) (stop func()) {
	timer := time.AfterFunc(patience, func() { ready(logger) })
	return func() { timer.Stop() }
}

// ready tells the service manager that the agent is there.
func ready(logger *slog.Logger) {
	if err := notifySystemd("READY=1"); err != nil {
		logger.Warn("systemd goes on waiting", "err", err)
	}
}

// notifySystemd tells the service manager a state, such as READY=1, sd_notify(3).
// Where none asked to be told it does nothing.
func notifySystemd(state string) error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	// A path that begins with @ is an abstract address; package net knows that, too.
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
