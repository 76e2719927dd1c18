package ipam

import (
	"slices"
	"sync"
)

// queue holds the ops that wait for a view, in order of arrival.
type queue struct {
	mu      sync.Mutex
	ops     []*op
	serving bool // a goroutine takes ops from the queue
}

// enqueue adds an op. It returns true if no goroutine serves the queue, so that the
// caller must start one.
func (q *queue) enqueue(o *op) (serve bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ops = append(q.ops, o)
	serve = !q.serving
	q.serving = true
	return serve
}

// dequeue removes and returns all ops. If there are none, it marks the queue as not
// served.
func (q *queue) dequeue() []*op {
	q.mu.Lock()
	defer q.mu.Unlock()
	ops := q.ops
	q.ops = nil
	q.serving = len(ops) > 0
	return ops
}

// requeue puts ops in front of those that arrived meanwhile.
func (q *queue) requeue(ops []*op) {
	if len(ops) == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ops = append(ops, q.ops...)
}

// withdraw removes a waiting op. It returns false if the op is no longer waiting.
func (q *queue) withdraw(o *op) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	i := slices.Index(q.ops, o)
	if i < 0 {
		return false
	}
	q.ops = slices.Delete(q.ops, i, i+1)
	return true
}
