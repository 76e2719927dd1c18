//go:build long

package upgrade

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// Promise: three hosts are upgraded one by one in both orders, with a way back in
// between, as TestUpgrade does with two. h1 is the one whose Consul began the cluster.
func TestUpgradeOfThree(t *testing.T) {
	hosts := hostsOfTheFirst(t, 3)
	u := begin(t, hosts)
	change := func(h *host, release string) {
		t.Helper()
		what := h.Name + " becomes " + release
		u.strictly(what, func() {
			h.must("install", "-m", "755", "/root/"+release+"/socketplane", "/usr/local/bin/socketplane")
			h.sp("agent", "restart")
		})
		u.live(what)
	}
	h1, h2, h3 := hosts[0], hosts[1], hosts[2]
	for _, round := range []struct {
		order []*host
		back  *host // is taken back after the second, and comes along again
	}{{[]*host{h1, h2, h3}, h1}, {[]*host{h3, h2, h1}, h2}} {
		for i, h := range round.order {
			change(h, "new")
			if i == 1 {
				change(round.back, "old")
				change(round.back, "new")
			}
			var older []string
			for _, o := range hosts {
				if !slices.Contains(round.order[:i+1], o) {
					older = append(older, o.Name)
				}
			}
			eventually(t, "those that are behind", func() error {
				if got := u.behind(h); got != strings.Join(older, " ") {
					return fmt.Errorf("%q, want %q", got, older)
				}
				return nil
			})
		}
		for _, h := range hosts { // all the way back, for the other order
			change(h, "old")
		}
	}
	u.end()
}

// behind lists the hosts that a host calls behind.
func (u *upgrade) behind(on *host) string {
	u.t.Helper()
	var members []struct {
		Name   string
		Behind bool
	}
	if err := json.Unmarshal([]byte(on.sp("cluster", "members", "-o", "json")), &members); err != nil {
		u.t.Fatal(err)
	}
	var names []string
	for _, m := range members {
		if m.Behind {
			names = append(names, m.Name)
		}
	}
	return strings.Join(names, " ")
}
