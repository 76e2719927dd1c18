package nat

import (
	"os/exec"
	"strings"
	"sync"
	"testing"
)

// dockersTable is what Docker 29 has in nftables for one bridge with a container that
// publishes (moby, integration/network/bridge/nftablesdoc): there is no DOCKER-USER,
// and nothing of Docker's in iptables.
const dockersTable = `
table ip docker-bridges {
	map filter-forward-in-jumps {
		type ifname : verdict
		elements = { "br-0123456789ab" : jump filter-forward-in__br-0123456789ab }
	}
	map filter-forward-out-jumps {
		type ifname : verdict
		elements = { "br-0123456789ab" : jump filter-forward-out__br-0123456789ab }
	}
	chain filter-FORWARD {
		type filter hook forward priority filter; policy accept;
		oifname vmap @filter-forward-in-jumps
		iifname vmap @filter-forward-out-jumps
	}
	chain filter-forward-in__br-0123456789ab {
		ct state established,related counter accept
		iifname "br-0123456789ab" counter accept
		ip daddr 172.18.0.2 icmp type echo-request ct status dnat counter accept
		counter drop comment "UNPUBLISHED PORT DROP"
	}
	chain filter-forward-out__br-0123456789ab {
		ct state established,related counter accept
		counter accept comment "OUTGOING"
	}
	chain nat-PREROUTING {
		type nat hook prerouting priority dstnat; policy accept;
		ip daddr 203.0.113.99 counter dnat to 172.18.0.2
	}
	chain nat-POSTROUTING {
		type nat hook postrouting priority srcnat; policy accept;
		iifname "br-0123456789ab" oifname != "br-0123456789ab" ip saddr 172.18.0.0/16 counter masquerade
	}
}
`

// TestDockerInNftables: beside a Docker whose packet filter is in nftables, containers of
// both reach the outside and what is published, and nothing else, whatever the policy of
// FORWARD is.
func TestDockerInNftables(t *testing.T) {
	for _, backend := range backends {
		t.Run(backend, func(t *testing.T) {
			n := newNAT(t, backend)
			web, db, outside, compose := world(t)
			do(t, "ip", "-n", outside, "route", "add", "10.6.0.0/16", "via", "203.0.113.2")
			do(t, "ip", "-n", outside, "route", "add", "172.18.0.0/16", "via", "203.0.113.2")
			do(t, "ip", "-n", outside, "route", "add", "203.0.113.99", "via", "203.0.113.2")
			nft := exec.CommandContext(t.Context(), "nft", "-f", "-")
			nft.Stdin = strings.NewReader(dockersTable)
			if out, err := nft.CombinedOutput(); err != nil {
				t.Fatalf("nft: %v: %s", err, out)
			}
			t.Cleanup(func() { _ = exec.Command("nft", "delete", "table", "ip", "docker-bridges").Run() })
			deny := rules()
			deny.DenyForward, deny.Bridges = true, []string{"br-0123456789ab"}
			dropped := rules()
			dropped.Bridges = deny.Bridges // of no use where the policy is somebody else's
			for _, c := range []struct {
				name    string
				rules   Rules
				policy  string // set before
				dockers bool   // Docker's own reach the outside, and are reached where published
			}{
				{"policy ACCEPT", rules(), "ACCEPT", true},
				{"policy DROP of the agent's", deny, "ACCEPT", true},
				{"policy DROP of somebody's", dropped, "DROP", false},
			} {
				do(t, "iptables-"+backend, "-w", "-P", "FORWARD", c.policy)
				for range 2 { // the second time nothing may differ
					if err := n.Set(t.Context(), c.rules); err != nil {
						t.Fatal(err)
					}
				}
				if chains, err := c.rules.chains(); err != nil {
					t.Fatal(err)
				} else if have, err := n.cmd.save(t.Context()); err != nil || difference(have, chains) != "" {
					t.Errorf("%s: rules that are not as iptables-save writes them: %v\n%s", c.name, err, difference(have, chains))
				}
				var wg sync.WaitGroup
				for _, p := range []struct {
					from, to string
					want     bool
				}{
					{web, "203.0.113.1", true},
					{db, "203.0.113.1", true},
					{web, "10.7.0.2", false},
					{web, "172.18.0.2", false},
					{outside, "10.6.0.2", false},
					{outside, "172.18.0.2", false},
					{compose, "10.6.0.2", false},
					{compose, "203.0.113.1", c.dockers},
					{outside, "203.0.113.99", c.dockers},
					{web, "203.0.113.99", c.dockers},
				} {
					wg.Go(func() {
						if got := reaches(t, p.from, p.to); got != p.want {
							t.Errorf("%s: %s reaches %s: %v", c.name, p.from, p.to, got)
						}
					})
				}
				wg.Wait()
			}
			bad := deny
			bad.Bridges = []string{"spg0"}
			if err := n.Set(t.Context(), bad); err == nil {
				t.Error("a gateway port passed for a bridge of Docker's")
			}
		})
	}
}
