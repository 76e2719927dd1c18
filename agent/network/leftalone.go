package network

import "sync"

// maxLeftAlone limits how many undecodable values are remembered.
const maxLeftAlone = 1024

// leftAlone records the undecodable values that were logged. Each is logged only once,
// although every creation reads all of them.
type leftAlone struct {
	mu   sync.Mutex
	said map[string]uint64 // key -> version
}

// news reports whether a value has not been logged yet, and marks it as logged.
func (l *leftAlone) news(key string, version uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if said, ok := l.said[key]; ok && said == version {
		return false
	}
	if l.said == nil || len(l.said) >= maxLeftAlone {
		l.said = map[string]uint64{}
	}
	l.said[key] = version
	return true
}
