package network

import "sync"

// maxLeftAlone bounds what is remembered of values that cannot be decoded.
const maxLeftAlone = 1024

// leftAlone are the values of the store that cannot be decoded and were logged: each
// once, although every creation reads all of them.
type leftAlone struct {
	mu   sync.Mutex
	said map[string]uint64 // key -> version
}

// news says whether a value was not logged yet, and takes it for logged.
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
