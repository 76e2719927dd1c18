package link

import (
	"context"
	"testing"
	"time"
)

// TestWatchGone: a pair that goes with its namespace is told at once, others'
// interfaces are not.
func TestWatchGone(t *testing.T) {
	l := newLinks(t)
	ctx, cancel := context.WithCancel(t.Context())
	names := make(chan string, 16)
	ended := make(chan error, 1)
	go func() { ended <- l.WatchGone(ctx, func(name string) { names <- name }) }()

	v := veth(t, l, t.Name())
	tick := time.NewTicker(20 * time.Millisecond) // the watch may not have begun when the first goes
	defer tick.Stop()
	deadline := time.After(10 * time.Second)
	for {
		addDummy(t, here(t), "other0")
		if err := l.EnsureVeth(t.Context(), v); err != nil {
			t.Fatal(err)
		}
		c := here(t)
		if link, err := c.mustFind("other0"); err != nil || c.LinkDel(link) != nil {
			t.Fatal("other0 does not go", err)
		}
		if err := l.DeleteVeth(t.Context(), v.Host); err != nil {
			t.Fatal(err)
		}
		select {
		case name := <-names:
			if name != v.Host {
				t.Fatalf("told of %q, want %q", name, v.Host)
			}
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
			return
		case <-tick.C:
		case <-deadline:
			t.Fatal("nothing was told")
		}
	}
}
