//go:build long

package clustertest

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// Promise: a host that was off and comes back with another address, a client or a
// server, is the same host: its peers' tunnels lead to where it is now.
func TestReturnsWithAnotherAddress(t *testing.T) {
	form(t, 4)
	sp(t, 1, "network", "create", "moved", "10.157.0.0/24")
	t.Cleanup(func() { sp(t, 1, "network", "delete", "moved") })
	here := connect(t, 1, "moved", "here")
	t.Cleanup(func() { here.disconnect(t) })
	awaitServers(t, 1, 4, 3)
	for _, role := range []string{"client", "server"} {
		t.Run("a "+role, func(t *testing.T) {
			k := hostWith(t, role)
			was, is := fmt.Sprintf("198.18.0.%d", k), fmt.Sprintf("198.18.0.%d", 100+k)
			others := func(of string) (list []string) {
				for i, addr := range []string{addr1, addr2, addr3, addr4} {
					switch i + 1 {
					case 1:
					case k:
						list = append(list, of)
					default:
						list = append(list, addr)
					}
				}
				return list
			}
			comesBack := func(at string) {
				if err := hosts.Host(k).PowerOff(t.Context()); err != nil {
					t.Fatal(err)
				}
				powerOn(t, k)
				address(t, k, at)
				sp(t, k, "agent", "start")
				began := time.Now()
				// The others give a name to another address only 30 s after the old one
				// has gone silent (Consul's dead node reclaim time).
				eventually(t, 2*time.Minute, "it has read the state", func() error {
					if s, err := statusOf(t, k); err != nil || !s.Ready {
						return fmt.Errorf("%v, %q", err, s.Problems)
					}
					return nil
				})
				t.Logf("a %s is back at %s after %s", role, at, time.Since(began).Round(100*time.Millisecond))
				awaitPeers(t, 1, others(at)...)
				awaitServers(t, 1, 4, 3)
				there := connect(t, k, "moved", fmt.Sprintf("there%d", k))
				awaitWhole(t, []end{here, there}, 1, 2, 3, 4)
				there.disconnect(t)
			}
			comesBack(is)
			if out := sp(t, 1, "cluster", "members"); !strings.Contains(out, is) || strings.Contains(out, was+" ") {
				t.Error(out)
			}
			comesBack(was)
		})
	}
}

// hostWith is a host other than h1, and not the leader, that has a role.
func hostWith(t testing.TB, role string) int {
	t.Helper()
	all, err := members(t, 1)
	if err != nil {
		t.Fatal(err)
	}
	leader := leaderOf(t)
	for _, m := range all {
		var k int
		if _, err := fmt.Sscanf(m.Name, "h%d", &k); err != nil {
			t.Fatal(err)
		}
		if k != 1 && k != leader && m.Role == role {
			return k
		}
	}
	t.Fatalf("no host is a %s: %+v", role, all)
	return 0
}

// address gives host k another address in place of the one it has.
func address(t testing.TB, k int, addr string) {
	t.Helper()
	must(t, k, "ip", "address", "flush", "dev", "br-phy")
	must(t, k, "ip", "address", "add", addr+"/24", "dev", "br-phy")
	must(t, k, "ip", "route", "replace", "default", "via", "198.18.0.254")
}
