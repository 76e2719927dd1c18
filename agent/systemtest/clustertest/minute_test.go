//go:build long

package clustertest

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// Promise: a host that is cut off for a minute, whatever it is in the cluster,
// costs the others nothing but its containers, and is one of them again soon after.
func TestPartition(t *testing.T) {
	form(t, 4)
	sp(t, 1, "network", "create", "parts", "10.156.0.0/24")
	var ends []end
	for k := 1; k <= 4; k++ {
		ends = append(ends, connect(t, k, "parts", fmt.Sprintf("p%d", k)))
	}
	t.Cleanup(func() {
		for _, e := range ends {
			e.disconnect(t)
		}
		sp(t, 1, "network", "delete", "parts")
	})
	awaitWhole(t, ends, 1, 2, 3, 4)
	for _, tt := range []struct {
		what string
		of   func(m member, leader int) bool
	}{
		{"a client", func(m member, _ int) bool { return m.Role == "client" }},
		{"a server", func(m member, leader int) bool { return m.Role == "server" && m.Name != fmt.Sprintf("h%d", leader) }},
		{"the leader", func(m member, leader int) bool { return m.Name == fmt.Sprintf("h%d", leader) }},
	} {
		t.Run(tt.what, func(t *testing.T) {
			awaitServers(t, 1, 4, 3)
			all, err := members(t, 1)
			if err != nil {
				t.Fatal(err)
			}
			leader := leaderOf(t)
			i := slices.IndexFunc(all, func(m member) bool { return tt.of(m, leader) })
			var k int
			if _, err := fmt.Sscanf(all[i].Name, "h%d", &k); err != nil {
				t.Fatal(err)
			}
			partition(t, k, time.Minute, ends, 1, 2, 3, 4)
		})
	}
}
