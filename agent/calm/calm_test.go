package calm

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		logger := slog.New(New(slog.NewTextHandler(&log, nil)))
		lines := func() int { return strings.Count(log.String(), "\n") }
		flood := func(l *slog.Logger, n int) {
			for i := range n {
				l.Warn(fmt.Sprintf("another sentence each time: %d", i))
			}
		}
		flood(logger, 1000)
		flood(logger.With("host", "h1").WithGroup("g"), 1000) // the same place
		if lines() != burst {
			t.Errorf("%d lines of 2000 at once, want %d", lines(), burst)
		}
		logger.Error("another place") // is not kept from complaining
		for range 5 {
			logger.Info("no complaint")
		}
		if lines() != burst+6 {
			t.Errorf("%d lines, want %d", lines(), burst+6)
		}
		log.Reset()
		time.Sleep(interval)
		flood(logger, 1000)
		if got := log.String(); lines() != 1 || !strings.Contains(got, unlogged+"=1950") {
			t.Errorf("after %v: %s", interval, got)
		}
		log.Reset()
		time.Sleep(burst * interval)
		flood(logger, burst)
		if got := log.String(); lines() != burst || strings.Count(got, unlogged) != 1 || !strings.Contains(got, unlogged+"=999") {
			t.Errorf("after a rest: %d lines", lines())
		}
	})
}

func TestOrdinary(t *testing.T) {
	var log bytes.Buffer
	logger := slog.New(New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelError})))
	logger.Warn("below the level")
	logger.With("a", 1).Error("at the level", "b", 2)
	if got := log.String(); !strings.Contains(got, "msg=\"at the level\" a=1 b=2\n") || strings.Count(got, "\n") != 1 {
		t.Errorf("got %q", got)
	}
}
