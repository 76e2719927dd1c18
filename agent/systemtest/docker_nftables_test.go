package systemtest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/socketplane/socketplane/agent/systemtest/lab"
)

// dockersNftables is what Docker 29 has in nftables for docker0, as far as containers that
// publish nothing need it ("firewall-backend": "nftables"; moby, nftablesdoc).
const dockersNftables = `
table ip docker-bridges {
	map filter-forward-in-jumps {
		type ifname : verdict
		elements = { "docker0" : jump filter-forward-in__docker0 }
	}
	map filter-forward-out-jumps {
		type ifname : verdict
		elements = { "docker0" : jump filter-forward-out__docker0 }
	}
	chain filter-FORWARD {
		type filter hook forward priority filter; policy accept;
		oifname vmap @filter-forward-in-jumps
		iifname vmap @filter-forward-out-jumps
	}
	chain filter-forward-in__docker0 {
		ct state established,related counter accept
		iifname "docker0" counter accept
		counter drop comment "UNPUBLISHED PORT DROP"
	}
	chain filter-forward-out__docker0 {
		ct state established,related counter accept
		counter accept comment "OUTGOING"
	}
	chain nat-POSTROUTING {
		type nat hook postrouting priority srcnat; policy accept;
		iifname "docker0" oifname != "docker0" counter masquerade
	}
}
`

// Promise: beside a Docker whose packet filter is in nftables, which makes no chain in
// iptables and does not have the host forward, containers reach the outside and are
// reached where they publish, and so do those of Docker's own bridge, whatever the policy
// of FORWARD is. (dockerd here is older: it is told to leave iptables and forwarding
// alone, and its table is written by hand.)
func TestDockerInNftables(t *testing.T) {
	const host = 3
	makeNetwork(t, 1, "nft", "10.212.0.0/24")
	dockerHas(t, host, "nft", true)
	before := traces(t, host)
	edit := func(file, how string) {
		t.Helper()
		must(t, host, "sh", "-c", `f=`+file+`; [ -s $f ] || echo '{"version":1}' >$f; text=$(jq '`+how+`' $f) && printf '%s\n' "$text" >$f`)
	}
	const daemon, record = "/etc/docker/daemon.json", "/var/lib/socketplane/before.json"
	must(t, host, "sh", "-c", "cp "+daemon+" /tmp/nft-daemon.json; cp "+record+" /tmp/nft-before.json; true")
	policy := must(t, host, "sh", "-c", "iptables -S FORWARD | head -1")
	t.Cleanup(func() {
		try(t, host, "nft", "delete", "table", "ip", "docker-bridges")
		must(t, host, "sh", "-c", "cp /tmp/nft-daemon.json "+daemon+"; [ ! -e /tmp/nft-before.json ] || cp /tmp/nft-before.json "+record)
		must(t, host, append([]string{"iptables", "-w"}, strings.Fields(policy)...)...)
		service(t, host, "restart", "dockerd")
		sp(t, host, "agent", "restart")
		healthy(t, host)
	})
	edit(daemon, `.iptables = false | ."ip-forward" = false`)
	for _, c := range []struct {
		name     string
		wasOff   string // forwarding before the agent first came, by its record
		forwards string // the policy of FORWARD before the agent starts
		want     string // and after
		dockers  bool   // containers of docker0 reach the outside
	}{
		{"forwarding was off", "0", "ACCEPT", "DROP", true},
		{"forwarding was on", "1", "ACCEPT", "ACCEPT", true},
		{"forwarding was on, and somebody's policy is DROP", "1", "DROP", "DROP", false},
	} {
		sp(t, host, "agent", "stop")
		service(t, host, "stop", "dockerd")
		edit(record, `.sysctls."net/ipv4/ip_forward" = "`+c.wasOff+`" | del(.forward_policy)`)
		must(t, host, "sh", "-c", `for t in filter nat raw; do iptables -w -t $t -F; iptables -w -t $t -X; done; iptables -w -P FORWARD `+c.forwards+`
			nft delete table ip docker-bridges 2>/dev/null; sysctl -qw net.ipv4.ip_forward=0`)
		sp(t, host, "agent", "start")
		service(t, host, "start", "dockerd")
		if r := tryInput(t, host, dockersNftables, "nft", "-f", "-"); r.code != 0 {
			t.Fatal(r.stderr)
		}
		healthy(t, host)
		if chains := must(t, host, "iptables-save"); strings.Contains(chains, "DOCKER") {
			t.Fatalf("%s: Docker uses iptables:\n%s", c.name, chains)
		}
		dockerHas(t, host, "nft", true)
		must(t, host, "docker", "run", "-d", "--init", "--net", "nft", "--name", "nft-ours", "-p", "18680:80", lab.Image, "httpd", "-f", "-p", "80")
		must(t, host, "docker", "run", "-d", "--init", "--name", "nft-dockers", lab.Image, "sleep", "100000")
		t.Cleanup(func() { try(t, host, "docker", "rm", "-f", "nft-ours", "nft-dockers") })
		ours, dockers := container{host: host, name: "nft-ours"}, container{host: host, name: "nft-dockers"}
		eventually(t, c.name+": ours reaches the outside", func() error { return ours.pings(t, "203.0.113.1") })
		eventually(t, c.name+": ours is reached where it publishes", func() error {
			if r := try(t, 2, "curl", "-s", "-o", "/dev/null", "--max-time", "2", "http://198.18.0.3:18680"); r.code != 0 {
				return fmt.Errorf("curl ends with status %d", r.code)
			}
			return nil
		})
		if c.dockers {
			eventually(t, c.name+": Docker's reaches the outside", func() error { return dockers.pings(t, "203.0.113.1") })
		}
		if on := strings.TrimSpace(must(t, host, "sysctl", "-n", "net.ipv4.ip_forward")); on != "1" {
			t.Errorf("%s: ip_forward is %s", c.name, on)
		}
		if got := strings.TrimSpace(must(t, host, "sh", "-c", "iptables -S FORWARD | head -1")); got != "-P FORWARD "+c.want {
			t.Errorf("%s: the policy is %s", c.name, got)
		}
		dockersIP := strings.TrimSpace(must(t, host, "docker", "inspect", "-f", "{{.NetworkSettings.IPAddress}}", "nft-dockers"))
		if err := ours.pings(t, dockersIP); err == nil {
			t.Errorf("%s: ours reaches a container of Docker's that publishes nothing", c.name)
		}
		for _, name := range []string{"nft-ours", "nft-dockers"} {
			removeByDocker(t, host, name)
		}
	}
	leavesNothing(t, host, before)
}
