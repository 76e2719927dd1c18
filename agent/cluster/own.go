package cluster

import (
	"bytes"
	"slices"
	"sync"
	"time"
)

// Own tells the values that this host wrote to a key of its own from those of
// others, and counts the latter. A key that is absent has the value nil. The zero
// Own has written nothing in this life, and takes whatever it finds for its own.
type Own struct {
	mu     sync.Mutex
	values [][]byte // what may be there: the last one known to be, and those whose write had no answer
	wrote  bool     // see FromBefore; Reset does not clear it
	seen   uint64   // version of the foreign value that was counted last
	count  int
	last   time.Time
	said   time.Time // when that was news last
}

// sayEvery is how often it is news that somebody else wrote a key.
const sayEvery = time.Minute

// maxTries bounds the values of unanswered writes that are kept.
const maxTries = 8

// Try says that a value is about to be written.
func (o *Own) Try(value []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.values) > 0 && !o.is(value) && len(o.values) < maxTries { // where nothing is known, anything may be ours
		o.values = append(o.values, slices.Clone(value))
	}
}

// Wrote says that a value is there, and ours.
func (o *Own) Wrote(value []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.values, o.wrote = [][]byte{slices.Clone(value)}, true
}

// FromBefore reports whether the key may still have what an earlier life of this host
// wrote, perhaps as a later release. That ends with the first Wrote of this life, and
// Reset does not bring it back: others may delete the value of a host that was taken for
// dead, but no later release of this host writes a new one meanwhile.
func (o *Own) FromBefore() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return !o.wrote
}

// Reset forgets what was written: others may have changed it rightly, as after
// this host was taken for dead.
func (o *Own) Reset() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.values = nil
}

// Is says whether a value may be ours.
func (o *Own) Is(value []byte) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.values) == 0 || o.is(value)
}

func (o *Own) is(value []byte) bool {
	return slices.ContainsFunc(o.values, func(v []byte) bool { return bytes.Equal(v, value) })
}

// Foreign counts a value that was read and is not ours, once a version. It is news once
// a minute: who writes a key in a loop fills no log.
func (o *Own) Foreign(value []byte, version uint64, now time.Time) (news bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.values) == 0 || o.is(value) || version != 0 && version == o.seen {
		return false
	}
	o.seen = version
	o.count++
	o.last = now
	if !o.said.IsZero() && now.Sub(o.said) < sayEvery {
		return false
	}
	o.said = now
	return true
}

// Overwritten says how often somebody else wrote the key in this life, and when last.
func (o *Own) Overwritten() (count int, last time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.count, o.last
}
