package upgrade

import (
	"testing"
	"time"
)

// A pinger that is ended while it sends loses nothing: a request that goes at the last
// moment has its answer awaited as well.
func TestPingerEndsWhileItSends(t *testing.T) {
	for range 40 {
		p := ping(t, "loopback", "/proc/thread-self/ns/net", "127.0.0.1")
		<-time.After(pingEvery) // the next request is due now
		if sent, lost, _ := p.finish(); len(lost) > 0 || sent == 0 {
			t.Fatalf("of %d requests these were lost: %v", sent, lost)
		}
	}
}
