package clustertest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/socketplane/socketplane/agent/systemtest/lab"
)

// cut takes host k off the wire: its link stays up, and nothing passes. The
// returned function mends it; the end of the test does, too.
func cut(t testing.TB, k int) (heal func()) {
	t.Helper()
	port := func(state string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		out, err := exec.CommandContext(ctx, "bridge", "-n", lab.Prefix+"-"+lab.Underlay, "link", "set", "dev", hosts.Host(k).Name, "state", state).CombinedOutput()
		if err != nil {
			t.Fatalf("h%d's port of the wire: %v: %s", k, err, out)
		}
	}
	// States of a bridge's port: IEEE 802.1D, bridge(8).
	const disabled, forwarding = "0", "3"
	healed := false
	heal = func() {
		if !healed {
			healed = true
			port(forwarding)
		}
	}
	t.Cleanup(heal)
	port(disabled)
	return heal
}

// partition cuts host k off for as long as that, at least, and until the others go
// on, and says what is wrong afterwards. ends are all that there is on ks, which
// are all hosts.
func partition(t testing.TB, k int, least time.Duration, ends []end, ks ...int) {
	t.Helper()
	others := slices.DeleteFunc(slices.Clone(ks), func(o int) bool { return o == k })
	stays := slices.DeleteFunc(slices.Clone(ends), func(e end) bool { return e.host == k })
	began := time.Now()
	heal := cut(t, k)
	eventually(t, time.Minute, "the others write", func() error { return makes(t, others[0], "parted") })
	t.Logf("h%d writes %s after h%d was cut off", others[0], time.Since(began).Round(100*time.Millisecond), k)
	for _, e := range stays {
		for _, o := range stays {
			if o.network == e.network && o != e {
				if err := e.pings(t, o.ip); err != nil {
					t.Errorf("%s and %s were not cut off: %v", e.name, o.name, err)
				}
			}
		}
	}
	// Few are on the other side: they decide nothing.
	refused(t, try(t, k, "", "socketplane", "network", "create", "minority"), "try again")
	if least >= time.Minute {
		for _, o := range others {
			eventually(t, 90*time.Second, fmt.Sprintf("h%d drains h%d", o, k), func() error {
				s, err := statusOf(t, o)
				if err == nil && len(s.Peers) > len(others)-1 {
					i := slices.IndexFunc(s.Peers, func(p peer) bool { return p.VTEP == hosts.Host(k).Addr.String() })
					if i >= 0 && s.Peers[i].Tunnel != "" {
						err = fmt.Errorf("%+v", s.Peers[i])
					}
				}
				return err
			})
		}
		t.Logf("h%d has no tunnel any more %s after it was cut off", k, time.Since(began).Round(100*time.Millisecond))
	}
	<-time.After(time.Until(began.Add(least)))
	heal()
	healed := time.Now()
	awaitWhole(t, ends, ks...)
	if err := makes(t, k, "back"); err != nil {
		t.Errorf("h%d writes no more: %v", k, err)
	}
	t.Logf("h%d was cut off for %s, and all was well %s after", k, healed.Sub(began).Round(time.Second), time.Since(healed).Round(100*time.Millisecond))
}

// Promise: a host that is cut off for a minute, whatever it is in the cluster,
// costs the others nothing but its containers, and is one of them again soon after.
func TestPartition(t *testing.T) {
	if os.Getenv("SOCKETPLANE_TEST_LONG") == "" {
		t.Log("for 60 s: in make test-long; TestCluster has a shorter one")
		return
	}
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
