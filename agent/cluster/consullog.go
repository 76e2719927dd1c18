package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"
)

const (
	logPoll    = 250 * time.Millisecond
	maxLogLine = 16 << 10 // bytes
	maxMessage = 300      // bytes: memberlist prints whole tables of numbers
	maxLogFile = 8 << 20  // bytes; then it is emptied: the agent's log has it all
	// sameQuiet is how long a line that was just logged is not logged again:
	// Consul repeats itself every second while others are away.
	sameQuiet = time.Minute
)

// consulLog joins what Consul logs into the agent's log.
type consulLog struct {
	path   string
	logger *slog.Logger
	offset int64
	rest   []byte               // of a line that has not ended yet
	said   map[string]time.Time // when a message was logged last
}

func newConsulLog(path string, logger *slog.Logger) *consulLog {
	return &consulLog{path: path, logger: logger, said: map[string]time.Time{}}
}

// begin passes over what an earlier life of the agent has logged.
func (l *consulLog) begin() {
	if fi, err := os.Stat(l.path); err == nil {
		l.offset = fi.Size()
	}
}

// follow logs what Consul writes until ctx ends.
func (l *consulLog) follow(ctx context.Context) {
	tick := time.NewTicker(logPoll)
	defer tick.Stop()
	for {
		l.read()
		select {
		case <-ctx.Done():
			l.read()
			return
		case <-tick.C:
		}
	}
}

func (l *consulLog) read() {
	f, err := os.OpenFile(l.path, os.O_RDWR, 0)
	if err != nil {
		return // not there yet
	}
	defer f.Close() //nolint:errcheck // nothing was written
	fi, err := f.Stat()
	if err != nil {
		return
	}
	if fi.Size() < l.offset {
		l.offset, l.rest = 0, nil
	}
	data, err := io.ReadAll(io.NewSectionReader(f, l.offset, maxLogFile))
	if err != nil && !errors.Is(err, io.EOF) {
		return
	}
	l.offset += int64(len(data))
	l.take(data)
	if fi.Size() > maxLogFile {
		// Consul appends, so it goes on at the beginning. A line that came since
		// the reading is lost.
		_ = f.Truncate(0) // tried again at the next reading
		l.offset = 0
	}
}

func (l *consulLog) take(data []byte) {
	l.rest = append(l.rest, data...)
	for {
		line, rest, ok := bytes.Cut(l.rest, []byte{'\n'})
		if !ok {
			break
		}
		l.line(line)
		l.rest = rest
	}
	if len(l.rest) > maxLogLine {
		l.line(l.rest)
		l.rest = nil
	}
	l.rest = bytes.Clone(l.rest)
}

// line logs one line: JSON, but for what Consul says before it has read its
// configuration or when it gives up.
func (l *consulLog) line(line []byte) {
	line = bytes.TrimSpace(line[:min(len(line), maxLogLine)])
	if len(line) == 0 {
		return
	}
	var fields map[string]any
	level, module, message := slog.LevelWarn, "agent", string(line)
	var args []any
	if json.Unmarshal(line, &fields) == nil {
		text := func(key string) string { s, _ := fields[key].(string); return s }
		module, message = text("@module"), text("@message")
		switch text("@level") {
		case "error":
			level = slog.LevelError
		case "info":
			level = slog.LevelInfo
		case "debug", "trace":
			level = slog.LevelDebug
		}
		for key, value := range fields {
			if !strings.HasPrefix(key, "@") {
				args = append(args, slog.Any(key, value))
			}
		}
	}
	if strings.Contains(message, "wrong datacenter '"+probeDatacenter+"'") {
		level = slog.LevelDebug // a host that joins or starts has asked, and was to be refused
	}
	if len(message) > maxMessage {
		message = strings.ToValidUTF8(message[:maxMessage], "") + "..."
	}
	now := time.Now()
	if now.Sub(l.said[module+message]) < sameQuiet {
		return
	}
	if len(l.said) > 1000 {
		clear(l.said)
	}
	l.said[module+message] = now
	l.logger.With("consul", module).Log(context.Background(), level, message, args...)
}
