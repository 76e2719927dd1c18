package cluster

import (
	"bytes"
	"slices"
	"sync"
	"time"
)

// Own distinguishes the values that this host wrote to its own key from foreign values,
// and counts the foreign ones. The value of an absent key is nil. The zero Own has
// written nothing in this run and accepts any value as its own.
type Own struct {
	mu     sync.Mutex
	values [][]byte // possible values of the key: the last known one, and those of unanswered writes
	wrote  bool     // see FromBefore; Reset does not clear it
	seen   uint64   // version of the last counted foreign value
	count  int
	last   time.Time
	said   time.Time // last time that Foreign reported news
}

// sayEvery is the minimum interval between two reports of a foreign value.
const sayEvery = time.Minute

// maxTries limits how many values of unanswered writes are kept.
const maxTries = 8

// Try records that the caller is about to write value.
func (o *Own) Try(value []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.values) > 0 && !o.is(value) && len(o.values) < maxTries { // as long as no value is known, any value may be ours
		o.values = append(o.values, slices.Clone(value))
	}
}

// Wrote records that the key has value and that this host wrote it.
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

// Reset forgets the written values. The caller uses it when other hosts may legitimately
// have changed the key, for example after they considered this host dead.
func (o *Own) Reset() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.values = nil
}

// Is reports whether this host may have written value.
func (o *Own) Is(value []byte) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.values) == 0 || o.is(value)
}

func (o *Own) is(value []byte) bool {
	return slices.ContainsFunc(o.values, func(v []byte) bool { return bytes.Equal(v, value) })
}

// Foreign counts a value that another program wrote, once per version. It returns true at
// most once a minute, so that a program that writes the key in a loop does not flood the
// log.
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

// Overwritten returns how often and when last another program wrote the key in this run.
func (o *Own) Overwritten() (count int, last time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.count, o.last
}
