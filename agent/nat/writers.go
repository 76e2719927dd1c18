package nat

import (
	"sync"
	"time"
)

// writerNews is how long after the end of a program the notifications of its changes may
// still arrive. The kernel reuses a process id only after all others.
const writerNews = 5 * time.Second

// writers are the programs that write rules for us or did so recently. The kernel
// identifies a writer by its netlink port, which is the process id.
type writers struct {
	mu    sync.Mutex
	ended map[uint32]time.Time // zero while it runs
}

// add registers a process until writerNews after the call of done.
func (w *writers) add(pid int) (done func()) {
	if w == nil {
		return func() {}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended == nil {
		w.ended = map[uint32]time.Time{}
	}
	for p, at := range w.ended {
		if !at.IsZero() && time.Since(at) > writerNews {
			delete(w.ended, p)
		}
	}
	w.ended[uint32(pid)] = time.Time{}
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.ended[uint32(pid)] = time.Now()
	}
}

func (w *writers) has(port uint32) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	at, ok := w.ended[port]
	return ok && (at.IsZero() || time.Since(at) <= writerNews)
}
