//go:build long

package clustertest

import (
	"fmt"
	"slices"
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
			copyDisk(t, k, 5)
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
			for _, e := range ends { // what the copied switch has of the other's endpoints is nobody's here
				if e.host == k {
					eventually(t, eventualWait, "h5 says that it has no "+e.name, func() error {
						s, err := statusOf(t, 5)
						if err != nil || !slices.ContainsFunc(s.Problems, func(p string) bool {
							return strings.Contains(p, e.ip+` of "`+e.name+`" was given to another`)
						}) {
							return fmt.Errorf("%q, %v", s.Problems, err)
						}
						return nil
					})
					sp(t, 5, "disconnect", e.name)
				}
			}
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

// copyDisk boots host to with what host from has on its disk, the switch's database
// with the ports of its endpoints among it.
func copyDisk(t testing.TB, from, to int) {
	t.Helper()
	if err := hosts.Host(to).PowerOff(t.Context()); err != nil {
		t.Fatal(err)
	}
	must(t, from, "sh", "-c", `for dir in lib/socketplane etc/openvswitch; do
			rm -rf "$1/$dir"/* && cp -a "$0/$dir"/. "$1/$dir"/ || exit
		done`, hosts.Host(from).Dir(), hosts.Host(to).Dir())
	if err := hosts.Host(to).Boot(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := hosts.Host(to).Service(t.Context(), "start", "ovsdb-server"); err != nil {
		t.Fatal(err)
	}
	// The switch makes its bridge's MAC of what is in the database. A network card
	// has its own.
	must(t, to, "ovs-vsctl", "-t", "10", "--no-wait", "set", "bridge", "br-phy", fmt.Sprintf("other_config:hwaddr=02:00:5e:00:53:%02x", to))
	if err := hosts.Host(to).Service(t.Context(), "start", "ovs-vswitchd"); err != nil {
		t.Fatal(err)
	}
}
