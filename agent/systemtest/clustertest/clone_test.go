//go:build long

package clustertest

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Promise: a machine whose disk is a copy of that of a host in the cluster, which
// lives, is refused with a sentence before it has said a word under that host's
// name; nobody notices. With the file removed that the sentence names it is a host
// as any other.
func TestClonedDisk(t *testing.T) {
	for _, tt := range []struct {
		role string
		n    int // hosts of the cluster
	}{{"client", 4}, {"server", 4}, {"only server", 1}} {
		t.Run("of a "+tt.role, func(t *testing.T) {
			form(t, tt.n)
			k, all := 1, []int{1, 2, 3, 4}[:tt.n]
			if tt.n > 1 {
				k = hostWith(t, tt.role)
			}
			sp(t, 1, "network", "create", "copied", "10.158.0.0/24")
			var ends []end
			for _, o := range all {
				ends = append(ends, connect(t, o, "copied", fmt.Sprintf("x%d", o)))
			}
			near := connect(t, all[len(all)-1], "copied", "near")
			ends = append(ends, near)
			sp(t, k, "agent", "stop") // a disk at rest
			try(t, 5, "", "socketplane", "agent", "stop")
			copyState(t, k, 5)
			sp(t, k, "agent", "start")
			awaitReady(t, k)
			awaitServers(t, 1, tt.n, min(tt.n, 3))
			awaitWhole(t, ends, all...)

			before, err := storeOf(t, 1)
			if err != nil {
				t.Fatal(err)
			}
			leader := leaderOf(t)
			probes := startPings(t, near, ends[k-1].ip)
			clone := make(chan result, 1)
			go func() { clone <- try(t, 5, "", "socketplane", "agent", "run") }()
			var r result
			tick := time.NewTicker(time.Second)
			defer tick.Stop()
			for tried := true; tried; {
				for _, o := range all {
					if err := makes(t, o, "beside"); err != nil {
						t.Errorf("h%d writes no more: %v", o, err)
					}
				}
				select {
				case r = <-clone:
					tried = false
				case <-tick.C:
				}
			}
			probes.lostNothing(t)
			last := r.stderr[strings.LastIndex(strings.TrimSpace(r.stderr), "\n")+1:]
			for _, part := range []string{"another machine has this host's identity", hosts.Host(k).Addr.String(), "remove the file host-id"} {
				if r.code != 1 || !strings.Contains(last, part) {
					t.Errorf("exit status %d, no %q in:\n%s", r.code, part, r.stderr)
				}
			}
			t.Log(strings.TrimSpace(last))
			if now := leaderOf(t); now != leader {
				t.Errorf("h%d leads, before it was h%d", now, leader)
			}
			after, err := storeOf(t, 1)
			if err != nil {
				t.Fatal(err)
			}
			for key, value := range before {
				if strings.HasPrefix(key, "hosts/") && string(after[key]) != string(value) {
					t.Errorf("%s was\n%s, and is\n%s", key, value, after[key])
				}
			}
			awaitWhole(t, ends, all...)

			must(t, 5, "rm", "/var/lib/socketplane/host-id")
			sp(t, 5, "agent", "start")
			awaitReady(t, 5)
			all = append(all, 5)
			ends = append(ends, connect(t, 5, "copied", "x5"))
			awaitServers(t, 1, tt.n+1, map[int]int{1: 1, 4: 3}[tt.n])
			awaitWhole(t, ends, all...)

			for _, e := range ends {
				e.disconnect(t)
			}
			sp(t, 1, "network", "delete", "copied")
			sp(t, 5, "cluster", "leave")
		})
	}
}

// copyState gives host to the state directory that host from has.
func copyState(t testing.TB, from, to int) {
	t.Helper()
	const dir = "lib/socketplane"
	must(t, to, "sh", "-c", "rm -rf /var/lib/socketplane/* && cp -a \"$0\"/. /var/lib/socketplane/", filepath.Join(hosts.Host(from).Dir(), dir))
}
