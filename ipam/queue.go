package ipam

import (
	"slices"
	"sync"
)

// queue is the ops that wait for a view, in the order they came.
type queue struct {
	mu      sync.Mutex
	ops     []*op
	serving bool // somebody takes ops out of it
}

// enqueue adds an op. serve: nobody takes it out, the caller has to see to that.
func (q *queue) enqueue(o *op) (serve bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ops = append(q.ops, o)
	serve = !q.serving
	q.serving = true
	return serve
}

// dequeue takes all ops out. When there are none, serving has ended with it.
func (q *queue) dequeue() []*op {
	q.mu.Lock()
	defer q.mu.Unlock()
	ops := q.ops
	q.ops = nil
	q.serving = len(ops) > 0
	return ops
}

// requeue puts ops in front of those that came meanwhile.
func (q *queue) requeue(ops []*op) {
	if len(ops) == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ops = append(ops, q.ops...)
}

// withdraw takes an op out again; false when it is not waiting any more.
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
