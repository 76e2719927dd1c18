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
	maxMessage = 300      // bytes; memberlist logs whole tables of numbers
	maxLogFile = 8 << 20  // bytes; a larger file is truncated, since the agent's log has everything
	// sameQuiet is how long a repeated line is suppressed. Consul repeats lines every
	// second while other hosts are down.
	sameQuiet = time.Minute
)

// consulLog copies Consul's log into the agent's log.
type consulLog struct {
	path   string
	logger *slog.Logger
	offset int64
	rest   []byte               // incomplete last line
	said   map[string]time.Time // last time of each message
}

func newConsulLog(path string, logger *slog.Logger) *consulLog {
	return &consulLog{path: path, logger: logger, said: map[string]time.Time{}}
}

// begin skips what Consul logged during an earlier run of the agent.
func (l *consulLog) begin() {
	if fi, err := os.Stat(l.path); err == nil {
		l.offset = fi.Size()
	}
}

// follow copies what Consul logs until ctx ends.
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
		return // the file does not exist yet
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
		// Consul appends, so it continues at the start of the file. A line written
		// since the read is lost.
		_ = f.Truncate(0) // the next read retries
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

// line logs one line. Consul logs JSON, except before it has read its configuration and
// when it gives up.
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
		level = slog.LevelDebug // the expected refusal of a probe from a host that joins or starts
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
