package nat

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
)

// world makes two networks' gateway ports on this host with a container each,
// and an outside host. The outside has no route back to the containers.
func world(t *testing.T) (web, db, outside, compose string) {
	t.Helper()
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644); err != nil {
		t.Fatal(err)
	}
	names := map[string]string{}
	for _, end := range []struct{ ns, port, host, guest, via string }{
		{"web", "spgtest0", "10.6.0.1/16", "10.6.0.2/16", "10.6.0.1"},
		{"db", "spgtest1", "10.7.0.1/16", "10.7.0.2/16", "10.7.0.1"},
		{"out", "uplink", "203.0.113.2/24", "203.0.113.1/24", ""},
		{"compose", "br-0123456789ab", "172.18.0.1/16", "172.18.0.2/16", "172.18.0.1"}, // of a Docker network
	} {
		ns := fmt.Sprintf("nattest-%s-%d", end.ns, os.Getpid())
		names[end.ns] = ns
		do(t, "ip", "netns", "add", ns)
		t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", ns).Run() })
		do(t, "ip", "link", "add", end.port, "type", "veth", "peer", "name", "eth0", "netns", ns)
		t.Cleanup(func() { _ = exec.Command("ip", "link", "del", end.port).Run() })
		do(t, "ip", "addr", "add", end.host, "dev", end.port)
		do(t, "ip", "link", "set", end.port, "up")
		do(t, "ip", "-n", ns, "addr", "add", end.guest, "dev", "eth0")
		do(t, "ip", "-n", ns, "link", "set", "eth0", "up")
		if end.via != "" {
			do(t, "ip", "-n", ns, "route", "add", "default", "via", end.via)
		}
	}
	return names["web"], names["db"], names["out"], names["compose"]
}

// reaches pings once a while: three tries, for a neighbour that is not known yet.
func reaches(t *testing.T, ns, addr string) bool {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "ip", "netns", "exec", ns, "busybox", "ping", "-c", "3", "-i", "0.2", "-W", "1", addr)
	out, err := cmd.CombinedOutput()
	if !strings.Contains(string(out), "packets transmitted") && !strings.Contains(string(out), "nreachable") {
		t.Errorf("ping: %v: %s", err, out)
	}
	return err == nil
}

// clouds are where they answer with what they know of a machine: most of them, Azure,
// Alibaba, Oracle.
var clouds = []string{"169.254.169.254", "168.63.129.16", "100.100.100.200", "192.0.0.192"}

func TestForwarding(t *testing.T) {
	for _, backend := range backends {
		t.Run(backend, func(t *testing.T) {
			n := newNAT(t, backend)
			web, db, outside, compose := world(t)
			ipt := func(args ...string) { t.Helper(); do(t, append([]string{"iptables-" + backend, "-w"}, args...)...) }
			check := func(when string) {
				t.Helper()
				if err := n.Set(t.Context(), rules()); err != nil {
					t.Fatal(err)
				}
				var wg sync.WaitGroup // what must fail takes its time
				type ping struct {
					from, to string
					want     bool
				}
				pings := []ping{
					{web, "203.0.113.1", true}, // out, masqueraded: the outside knows no way to 10.6.0.0
					{db, "203.0.113.1", true},
					{web, "10.6.0.1", true},  // its own gateway
					{web, "10.7.0.1", false}, // another network's gateway
					{web, "10.7.0.2", false}, // another network's container
					{db, "10.6.0.2", false},
					{outside, "10.6.0.2", false},
					{web, "172.18.0.2", false}, // a container of Docker's that publishes nothing
					{compose, "10.6.0.2", false},
					{web, "203.0.113.99", true}, // what Docker publishes there
				}
				for _, metadata := range clouds {
					pings = append(pings, ping{web, metadata, false}, ping{db, metadata, true}) // its network allows it
				}
				for _, p := range pings {
					wg.Go(func() {
						if got := reaches(t, p.from, p.to); got != p.want {
							t.Errorf("%s: %s reaches %s: %v", when, p.from, p.to, got)
						}
					})
				}
				wg.Wait()
			}
			do(t, "ip", "-n", outside, "route", "add", "10.6.0.0/16", "via", "203.0.113.2")
			for _, metadata := range clouds {
				do(t, "ip", "-n", outside, "addr", "add", metadata+"/32", "dev", "eth0")
				do(t, "ip", "route", "add", metadata, "via", "203.0.113.1")
			}
			do(t, "ip", "-n", outside, "route", "add", "10.7.0.0/16", "via", "203.0.113.2")
			do(t, "ip", "-n", outside, "route", "add", "172.18.0.0/16", "via", "203.0.113.2")
			if !reaches(t, web, "172.18.0.2") || !reaches(t, outside, "172.18.0.2") {
				t.Fatal("without rules Docker's container is not reached: the test shows nothing")
			}
			// As Docker publishes a port of that container.
			ipt("-t", "nat", "-A", "PREROUTING", "-d", "203.0.113.99", "-p", "icmp", "-j", "DNAT", "--to-destination", "172.18.0.2")
			ipt("-A", "FORWARD", "-o", "br-0123456789ab", "-m", "conntrack", "--ctstate", "DNAT,RELATED,ESTABLISHED", "-j", "ACCEPT")
			ipt("-A", "FORWARD", "-i", "br-0123456789ab", "-m", "conntrack", "--ctstate", "DNAT,RELATED,ESTABLISHED", "-j", "ACCEPT")
			if !reaches(t, web, "10.7.0.2") || !reaches(t, outside, "10.6.0.2") || slices.ContainsFunc(clouds, func(metadata string) bool { return !reaches(t, web, metadata) }) {
				t.Fatal("without rules everything is forwarded: the test shows nothing")
			}
			check("policy ACCEPT")
			ipt("-P", "FORWARD", "DROP")
			check("policy DROP")
			// dockerd starts.
			ipt("-N", "DOCKER-USER")
			ipt("-A", "DOCKER-USER", "-j", "RETURN")
			ipt("-N", "DOCKER-ISOLATION-STAGE-1")
			ipt("-A", "DOCKER-ISOLATION-STAGE-1", "-j", "RETURN")
			ipt("-I", "FORWARD", "-j", "DOCKER-ISOLATION-STAGE-1")
			ipt("-I", "FORWARD", "-j", "DOCKER-USER")
			if !reaches(t, web, "203.0.113.1") {
				t.Error("Docker's start cut the way out before Set was called again")
			}
			check("with Docker")
			// The host forwards since we have it forward: a stranger that knows the
			// way reaches no container of Docker's by it.
			ipt("-P", "FORWARD", "ACCEPT")
			if !reaches(t, outside, "172.18.0.2") {
				t.Error("the way in is closed before it is")
			}
			r := rules()
			r.DenyForward = true

			if err := n.Set(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			if reaches(t, outside, "172.18.0.2") || !reaches(t, web, "203.0.113.1") || !reaches(t, web, "203.0.113.99") {
				t.Error("forwarding that was not asked for, or none that was")
			}
			// The outside still knows a way in; what it sees comes from the host.
			do(t, "ip", "-n", outside, "route", "del", "10.6.0.0/16")
			if !reaches(t, web, "203.0.113.1") {
				t.Error("not masqueraded")
			}
		})
	}
}
