// Package calm limits the size of the log. Anyone who can write the cluster's state can
// make every host log warnings, with a different text each time.
package calm

import (
	"context"
	"log/slog"
	"runtime"
	"sync"
	"time"
)

// Each place in the program may log burst warnings at once, and then one more every
// interval: 360 an hour.
const (
	burst    = 50
	interval = 10 * time.Second
)

// unlogged is the attribute with the number of suppressed records.
const unlogged = "left_out_before"

// New returns a handler that passes records to next, and suppresses warnings and errors
// that one place in the program logs too often. The next record from that place has the
// number of suppressed records.
func New(next slog.Handler) slog.Handler {
	return &handler{next: next, places: &places{of: map[line]*place{}}}
}

type handler struct {
	next   slog.Handler
	places *places // shared with the results of WithAttrs and WithGroup
}

// places are the places that have logged: at most as many as the program has.
type places struct {
	mu sync.Mutex
	of map[line]*place
}

// line is a source line. It identifies a place better than a program counter, because
// each inlined copy of a function has another one.
type line struct {
	file   string
	number int
}

type place struct {
	full time.Time // when the place may log burst records at once again
	out  int       // records suppressed since the last one that was passed on
}

func (h *handler) Enabled(ctx context.Context, l slog.Level) bool { return h.next.Enabled(ctx, l) }

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &handler{next: h.next.WithAttrs(attrs), places: h.places}
}

func (h *handler) WithGroup(name string) slog.Handler {
	return &handler{next: h.next.WithGroup(name), places: h.places}
}

func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	if r.Level < slog.LevelWarn {
		return h.next.Handle(ctx, r)
	}
	frame, _ := runtime.CallersFrames([]uintptr{r.PC}).Next()
	out, ok := h.places.may(line{frame.File, frame.Line}, time.Now())
	if !ok {
		return nil
	}
	if out > 0 {
		r = r.Clone()
		r.AddAttrs(slog.Int(unlogged, out))
	}
	return h.next.Handle(ctx, r)
}

// may reports whether a place may log now, and how many of its records were suppressed
// before.
func (p *places) may(from line, now time.Time) (out int, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := p.of[from]
	if at == nil {
		at = &place{}
		p.of[from] = at
	}
	if at.full.Before(now) {
		at.full = now
	}
	full := at.full.Add(interval)
	if full.Sub(now) > burst*interval {
		at.out++
		return 0, false
	}
	at.full = full
	out, at.out = at.out, 0
	return out, true
}
