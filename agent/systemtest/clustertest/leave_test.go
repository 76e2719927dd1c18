//go:build long

package clustertest

import (
	"strings"
	"sync"
	"testing"
)

// Promise: hosts may leave in whatever order, one right after the other or at the
// same moment, down to the last: those that stay can always write.
func TestLeaveInAnyOrder(t *testing.T) {
	for _, tt := range []struct {
		what  string
		turns [][]int // hosts that leave at the same moment
		last  int
	}{
		{"who began it goes first", [][]int{{1}, {2}, {3}, {4}}, 5},
		{"the last that came go first", [][]int{{5}, {4}, {3}, {2}}, 1},
		{"one from the middle, then a client, then servers", [][]int{{3}, {5}, {4}, {1}}, 2},
		{"two at the same moment", [][]int{{1, 3}, {2, 5}}, 4},
		{"all but one at the same moment", [][]int{{1, 2, 3, 5}}, 4},
	} {
		t.Run(tt.what, func(t *testing.T) {
			form(t, 5)
			for _, together := range tt.turns {
				var all sync.WaitGroup
				for _, k := range together {
					all.Go(func() {
						if r := try(t, k, "", "socketplane", "cluster", "leave"); r.code != 0 {
							t.Errorf("h%d does not leave: %s", k, r.stderr)
						}
					})
				}
				all.Wait()
			}
			awaitServers(t, tt.last, 1, 1)
			if err := makes(t, tt.last, "last"); err != nil {
				t.Error(err)
			}
			awaitPeers(t, tt.last)
			if t.Failed() {
				for k := 1; k <= 5; k++ {
					t.Logf("h%d:\n%s", k, try(t, k, "", "tail", "-n", "40", "/var/log/socketplane.log").stdout)
				}
			}
		})
	}
}

// Promise: a server does not go while the others could not carry on without it, and
// says who is missing; when that one is back it goes.
func TestLeaveWaitsForAQuorum(t *testing.T) {
	form(t, 3)
	sp(t, 2, "agent", "stop") // and its Consul
	refused(t, try(t, 1, "", "socketplane", "cluster", "leave"), "only 1 of 2 other servers", "h2-", "--force")
	if err := makes(t, 1, "stays"); err != nil {
		t.Errorf("after that: %v", err)
	}
	sp(t, 2, "agent", "start")
	awaitWhole(t, nil, 1, 2, 3)
	sp(t, 1, "cluster", "leave")
	awaitServers(t, 3, 2, 1)
	awaitWhole(t, nil, 2, 3)
}
