// Package calm keeps a log small whatever happens. Who can write the cluster's state
// can have every host complain, and with another sentence each time.
package calm

import (
	"context"
	"log/slog"
	"runtime"
	"sync"
	"time"
)

// Each place of the program that complains may say burst things at once, and then one
// more every interval: 360 an hour.
const (
	burst    = 50
	interval = 10 * time.Second
)

// unlogged is the attribute with the number of records that were left out.
const unlogged = "left_out_before"

// New makes a handler that leaves out warnings and errors that one place of the
// program logs too often, and passes all else on to next. The next record from there
// says how many.
func New(next slog.Handler) slog.Handler {
	return &handler{next: next, places: &places{of: map[line]*place{}}}
}

type handler struct {
	next   slog.Handler
	places *places // shared with what WithAttrs and WithGroup make
}

// places are those that have logged: at most as many as there are in the program.
type places struct {
	mu sync.Mutex
	of map[line]*place
}

// line is one of the source. A program counter tells less: where a function is inlined
// there is another.
type line struct {
	file   string
	number int
}

type place struct {
	full time.Time // when it may say burst things again
	out  int       // records left out since the last that was not
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

// may says whether a place may log now, and how many records it had to leave out.
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
