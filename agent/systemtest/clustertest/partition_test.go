package clustertest

import (
	"context"
	"fmt"
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
		// Its record outlives the minute: it can come back.
		name := fmt.Sprintf("h%d", k)
		for _, o := range others {
			all, err := members(t, o)
			i := slices.IndexFunc(all, func(m member) bool { return m.Name == name })
			if err != nil || i < 0 || all[i].State != "gone" {
				t.Errorf("h%d says of %s, which it has drained: %+v, %v", o, name, all, err)
			}
		}
		t.Logf("h%d has no tunnel any more %s after it was cut off", k, time.Since(began).Round(100*time.Millisecond))
	}
	<-time.After(time.Until(began.Add(least)))
	heal()
	healed := time.Now()
	awaitWhole(t, ends, ks...)
	// Consul's own connections wait as long again for their next try as the cut has
	// lasted, which is TCP's way.
	eventually(t, 30*time.Second, fmt.Sprintf("h%d writes again", k), func() error { return makes(t, k, "back") })
	t.Logf("h%d was cut off for %s, and all was well %s after", k, healed.Sub(began).Round(time.Second), time.Since(healed).Round(100*time.Millisecond))
}
