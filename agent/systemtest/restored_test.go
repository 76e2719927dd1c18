package systemtest

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"
)

// loss is something that the agent sets on a host, and how somebody takes it away.
type loss struct {
	what string
	argv []string
	slow bool // the kernel tells nobody: it is back with the slow timer
}

// losses are all that the agent sets on a host's own network for a network with
// the gateway port spg and a container with the host's end spv. docs/host.md has
// the same list.
func losses(spg, spv, subnet string) []loss {
	list := []loss{
		{what: "all nftables, as a firewall that is reloaded", argv: []string{"nft", "flush", "ruleset"}},
		{what: "the firewall of the cluster's ports", argv: []string{"nft", "delete", "table", "ip", "socketplane"}},
		{what: "a chain of it", argv: []string{"nft", "flush", "chain", "ip", "socketplane", "forward"}},
		{what: "the ingress chains", argv: []string{"nft", "delete", "table", "netdev", "socketplane"}},
		{what: "one ingress chain", argv: []string{"nft", "delete", "chain", "netdev", "socketplane", spv}},
		{what: "forwarding", argv: []string{"sysctl", "-qw", "net.ipv4.ip_forward=0"}},
		{what: "the gateway's address", argv: []string{"ip", "addr", "flush", "dev", spg}},
		{what: "the subnet's route", argv: []string{"ip", "route", "del", subnet, "dev", spg}},
		{what: "the gateway's state", argv: []string{"ip", "link", "set", spg, "down"}},
		{what: "the gateway's MTU", argv: []string{"ip", "link", "set", spg, "mtu", "1300"}, slow: true},
		{what: "the host's end's state", argv: []string{"ip", "link", "set", spv, "down"}, slow: true},
	}
	for _, c := range []string{"filter SOCKETPLANE-FORWARD", "filter SOCKETPLANE-INPUT", "nat SOCKETPLANE-POSTROUTING", "nat SOCKETPLANE-PORTS", "raw SOCKETPLANE-RAW", "raw SOCKETPLANE-OUTPUT"} {
		table, chain, _ := strings.Cut(c, " ")
		list = append(list, loss{what: "the rules of " + chain, argv: []string{"iptables", "-w", "-t", table, "-F", chain}})
	}
	for _, j := range []string{
		"filter FORWARD -j SOCKETPLANE-FORWARD", "filter INPUT -j SOCKETPLANE-INPUT",
		"nat POSTROUTING -j SOCKETPLANE-POSTROUTING", "raw PREROUTING -j SOCKETPLANE-RAW", "raw OUTPUT -j SOCKETPLANE-OUTPUT",
		"nat PREROUTING ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j SOCKETPLANE-PORTS", "nat OUTPUT -m addrtype --dst-type LOCAL -j SOCKETPLANE-PORTS",
	} {
		table, rule, _ := strings.Cut(j, " ")
		list = append(list, loss{what: "the jump from " + rule, argv: append([]string{"iptables", "-w", "-t", table, "-D"}, strings.Fields(rule)...)})
	}
	for _, s := range []string{spg + ".arp_ignore=0", spg + ".rp_filter=0", spg + ".route_localnet=0", spv + ".arp_ignore=0", spv + ".rp_filter=0"} {
		list = append(list, loss{what: "the setting " + s, argv: []string{"sysctl", "-qw", "net.ipv4.conf." + s}, slow: true})
	}
	for _, name := range []string{spg, spv} {
		list = append(list, loss{what: "IPv6 off on " + name, argv: []string{"sysctl", "-qw", "net.ipv6.conf." + name + ".disable_ipv6=0"}, slow: true})
	}
	return list
}

// hostState describes everything that losses take away.
func hostState(t testing.TB, k int, spg, spv string) string {
	t.Helper()
	var b strings.Builder
	for _, table := range []string{"filter", "nat", "raw"} {
		for line := range strings.Lines(try(t, k, "iptables-save", "-t", table).stdout) {
			if strings.Contains(line, "SOCKETPLANE-") && !strings.HasPrefix(line, "-A DOCKER-USER ") { // Docker's chain, which goes and stays away
				b.WriteString(counters.ReplaceAllString(line, ""))
			}
		}
	}
	for _, argv := range [][]string{
		{"nft", "list", "table", "ip", "socketplane"},
		{"nft", "list", "chain", "netdev", "socketplane", spv},
		{"ip", "-4", "-o", "addr", "show", "dev", spg},
		{"ip", "route", "show", "dev", spg},
		{
			"sysctl", "net.ipv4.ip_forward", "net.ipv4.conf." + spg + ".arp_ignore", "net.ipv4.conf." + spg + ".rp_filter", "net.ipv4.conf." + spg + ".route_localnet",
			"net.ipv6.conf." + spg + ".disable_ipv6", "net.ipv4.conf." + spv + ".arp_ignore", "net.ipv4.conf." + spv + ".rp_filter", "net.ipv6.conf." + spv + ".disable_ipv6",
		},
	} {
		r := try(t, k, argv...)
		b.WriteString(counters.ReplaceAllString(r.stdout, ""))
	}
	for _, name := range []string{spg, spv} {
		state := try(t, k, "ip", "-o", "link", "show", "dev", name).stdout
		fmt.Fprintf(&b, "%s up %t %s\n", name, strings.Contains(state, ",UP"), mtuOf.FindString(state))
	}
	return b.String()
}

var (
	counters = regexp.MustCompile(`\[\d+:\d+\]|counter packets \d+ bytes \d+ `)
	mtuOf    = regexp.MustCompile(`mtu \d+`)
)

// Promise: what the agent sets on a host is there again when somebody takes it
// away, one by one and all together: at once where the kernel tells, within the
// slow timer else, under both policies of FORWARD. Meanwhile no container reads the
// cloud's metadata, and the status says nothing false.
func TestWhatIsTakenAwayComesBack(t *testing.T) {
	serveMetadata(t)
	// dockerd puts its own rules back at its start only.
	docker := must(t, 1, "iptables-save")
	t.Cleanup(func() {
		if r := tryInput(t, 1, docker, "iptables-restore"); r.code != 0 {
			t.Error(r.stderr)
		}
	})
	makeNetwork(t, 1, "kept", "10.94.0.0/24")
	makeNetwork(t, 1, "apart", "10.95.0.0/24")
	c1, c2 := runContainer(t, 1, "kept", "kept1", "-p", "18094:80"), runContainer(t, 2, "kept", "kept2")
	other := runContainer(t, 1, "apart", "apart1")
	listen(t, c1)
	spv := info(t, 1, c1.name).Port
	var spg string
	eventually(t, "the gateway", func() error {
		fields := strings.Fields(try(t, 1, "ip", "-4", "-o", "addr", "show", "to", "10.94.0.1").stdout)
		if len(fields) < 2 {
			return fmt.Errorf("%q", fields)
		}
		spg = fields[1]
		return nil
	})
	works := func(when string) {
		t.Helper()
		eventually(t, when+": the other host's container", func() error { return c1.pings(t, c2.ip) })
		eventually(t, when+": the outside", func() error { return c1.pings(t, "203.0.113.1") })
		eventually(t, when+": the published port", func() error {
			if r := try(t, 2, "timeout", "2", "busybox", "wget", "-q", "-O", "/dev/null", "http://198.18.0.1:18094/hosts"); r.code != 0 {
				return fmt.Errorf("%s", r.stderr)
			}
			return nil
		})
		if err := c1.pings(t, other.ip); err == nil {
			t.Errorf("%s: another network is reached", when)
		}
		if r := c1.exec(t, "timeout", "1", "wget", "-q", "-O", "-", "http://"+metadataAddr+"/user_data"); r.code == 0 {
			t.Errorf("%s: the metadata are read", when)
		}
	}
	works("at first")
	reader := readMetadata(t, c1)
	for _, policy := range []string{"ACCEPT", "DROP"} {
		t.Run(policy, func(t *testing.T) {
			if policy == "DROP" {
				dropForwarded(t, 1)
			}
			want := hostState(t, 1, spg, spv)
			back := func(what string, wait time.Duration) {
				t.Helper()
				eventuallyIn(t, wait, what, func() error {
					if got := hostState(t, 1, spg, spv); got != want {
						return fmt.Errorf("%s\nwant\n%s", got, want)
					}
					return nil
				})
			}
			all := losses(spg, spv, "10.94.0.0/24")
			for _, l := range all {
				if l.slow || policy == "DROP" {
					continue
				}
				must(t, 1, l.argv...)
				back(l.what, 15*time.Second) // half of the slow timer's time: the kernel told
				if strings.Contains(l.what, "reloaded") || strings.Contains(l.what, "forwarding") {
					works("after the loss of " + l.what)
				}
			}
			for _, l := range all { // and all together, those that fail since they went with another too
				try(t, 1, l.argv...)
			}
			back("all of it", time.Minute)
			works("after the loss of all of it")
		})
	}
	if n := reader.end(t); n < 20 {
		t.Errorf("the metadata were asked for %d times only", n)
	}
	if s := sp(t, 1, "agent", "status"); !strings.Contains(s, "Ready:          yes") {
		t.Errorf("status:\n%s", s)
	}
}

// metadataReader asks for the metadata, over and over.
type metadataReader struct {
	cmd *exec.Cmd
	out *strings.Builder
}

func readMetadata(t *testing.T, c container) *metadataReader {
	t.Helper()
	r := &metadataReader{out: &strings.Builder{}}
	r.cmd = cluster.Host(c.host).Command(context.Background(), "docker", "exec", c.name, "sh", "-c",
		"while :; do timeout 1 wget -q -O - http://"+metadataAddr+"/user_data; echo asked; done")
	r.cmd.Stdout = r.out
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if r.cmd.ProcessState == nil {
			_ = r.cmd.Process.Kill() // the test has failed
			_ = r.cmd.Wait()
		}
	})
	return r
}

// end says how often it asked; that it got an answer fails the test.
func (r *metadataReader) end(t *testing.T) int {
	t.Helper()
	_ = r.cmd.Process.Kill() // it asks for ever
	_ = r.cmd.Wait()
	if strings.Contains(r.out.String(), "token") {
		t.Error("a container has read the metadata meanwhile")
	}
	return strings.Count(r.out.String(), "asked")
}
