package agent

import (
	"context"
	"sync"
)

// keyLocks provides a mutex per key. It only stores keys that are locked or waited for.
type keyLocks struct {
	mu    sync.Mutex
	locks map[string]*keyLock
}

type keyLock struct {
	held  chan struct{} // capacity 1; full while the key is locked
	users int
}

// Lock locks the key, or fails when ctx ends. The caller must call unlock exactly once.
func (k *keyLocks) Lock(ctx context.Context, key string) (unlock func(), err error) {
	l := k.enter(key)
	select {
	case l.held <- struct{}{}:
		return func() { <-l.held; k.leave(key, l) }, nil
	case <-ctx.Done():
		k.leave(key, l)
		return nil, ctx.Err()
	}
}

// TryLock locks the key if it is free.
func (k *keyLocks) TryLock(key string) (unlock func(), ok bool) {
	l := k.enter(key)
	select {
	case l.held <- struct{}{}:
		return func() { <-l.held; k.leave(key, l) }, true
	default:
		k.leave(key, l)
		return nil, false
	}
}

func (k *keyLocks) enter(key string) *keyLock {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.locks == nil {
		k.locks = map[string]*keyLock{}
	}
	l := k.locks[key]
	if l == nil {
		l = &keyLock{held: make(chan struct{}, 1)}
		k.locks[key] = l
	}
	l.users++
	return l
}

func (k *keyLocks) leave(key string, l *keyLock) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if l.users--; l.users == 0 {
		delete(k.locks, key)
	}
}
