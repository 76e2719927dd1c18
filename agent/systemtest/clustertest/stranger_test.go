package clustertest

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// attacker is who tries: it runs a command on a host.
type attacker struct {
	name string
	host int
	argv []string // before the command
}

func (a attacker) try(t testing.TB, stdin string, argv ...string) result {
	t.Helper()
	return try(t, a.host, stdin, slices.Concat(a.argv, argv)...)
}

// connects says whether a TCP connection is accepted.
func (a attacker) connects(t testing.TB, addr, port string) bool {
	t.Helper()
	return a.try(t, "", "timeout", "1", "bash", "-c", `exec 3<>"/dev/tcp/$0/$1"`, addr, port).code == 0
}

// Promise: no container, on whatever bridge, and no user of a host but root reaches
// the ports that carry the cluster, on any host; and no VXLAN packet that it makes
// is taken for one of its host's. Also when somebody has flushed all rules.
func TestContainersDoNotReachTheCluster(t *testing.T) {
	freshHosts(t)
	form(t, 3)
	sp(t, 1, "network", "create", "own", "10.60.0.0/24")
	sp(t, 1, "network", "create", "far", "10.61.0.0/24")
	own, near := connect(t, 1, "own", "own1"), connect(t, 2, "own", "own2")
	victim := connect(t, 2, "far", "far2")
	for _, e := range []end{own, near, victim} {
		t.Cleanup(func() { e.disconnect(t) })
	}
	dockerBridge(t, 1, "docker0", "172.17.0")
	dockerBridge(t, 1, "br-0123456789ab", "172.18.0")
	in := func(ns string) []string { return []string{"ip", "netns", "exec", ns} }
	attackers := []attacker{
		{"a container of ours", 1, in("own1")},
		{"a container of Docker's", 1, in("docker0")},
		{"a container of Compose's", 1, in("br-0123456789ab")},
		{"a user", 1, []string{"setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"}},
	}
	pings := startPings(t, own, near.ip)
	root := attacker{"root", 1, nil}
	check := func(when string) {
		t.Helper()
		for _, addr := range []string{addr1, addr2, addr3} {
			for _, port := range []string{"8300", "8301"} {
				eventually(t, eventualWait, when+": root reaches "+addr+":"+port, func() error {
					if !root.connects(t, addr, port) {
						return errors.New("refused")
					}
					return nil
				})
			}
		}
		var wg sync.WaitGroup
		for _, a := range attackers {
			wg.Go(func() {
				for _, addr := range []string{addr1, addr2, addr3} {
					for _, port := range []string{"8300", "8301"} {
						if a.connects(t, addr, port) {
							t.Errorf("%s: %s reaches %s:%s", when, a.name, addr, port)
						}
					}
				}
			})
		}
		wg.Wait()
		for _, a := range attackers {
			if smuggle(t, a, victim) {
				t.Errorf("%s: %s speaks in another network", when, a.name)
			}
		}
	}
	// What is root's own passes: silence below means that it was dropped. The
	// userspace switch sends tunnel packets by itself, so root's come by the kernel.
	eventually(t, eventualWait, "root's VXLAN is heard, without which the test shows nothing", func() error {
		if !smuggle(t, root, victim) {
			return errors.New("silence")
		}
		return nil
	})
	check("at first")

	// As Debian's nftables.conf, firewalld and ufw do when they are reloaded.
	must(t, 1, "nft", "flush", "ruleset")
	dockerRules(t, 1, "docker0", "172.17.0")
	dockerRules(t, 1, "br-0123456789ab", "172.18.0")
	eventually(t, eventualWait, "the rules are back", func() error {
		if r := try(t, 1, "", "nft", "list", "chain", "ip", "socketplane", "forward"); r.code != 0 {
			return fmt.Errorf("%s", r.stderr)
		}
		return nil
	})
	check("after all rules were flushed")
	pings.lostNothing(t)

	// The kernel has counted who tried.
	counted := must(t, 1, "nft", "list", "table", "ip", "socketplane")
	for _, what := range []string{"VXLAN of a container", "a container to a host's ports", "a stranger to the cluster's ports", "a user to a host's ports"} {
		if !regexp.MustCompile(`counter packets [1-9]\d* bytes \d+ drop comment "` + what).MatchString(counted) {
			t.Errorf("%q was not counted:\n%s", what, counted)
		}
	}
}

// dockerBridge makes what Docker makes for a network: a bridge, rules, and a
// container with an interface there, whose namespace has the bridge's name.
func dockerBridge(t testing.TB, k int, bridge, subnet string) {
	t.Helper()
	for _, argv := range [][]string{
		{"ip", "link", "add", bridge, "type", "bridge"},
		{"ip", "addr", "add", subnet + ".1/24", "dev", bridge},
		{"ip", "link", "set", bridge, "up"},
		{"ip", "netns", "add", bridge},
		{"ip", "link", "add", "veth" + subnet, "type", "veth", "peer", "name", "eth0", "netns", bridge},
		{"ip", "link", "set", "veth" + subnet, "master", bridge, "up"},
		{"ip", "-n", bridge, "addr", "add", subnet + ".2/24", "dev", "eth0"},
		{"ip", "-n", bridge, "link", "set", "eth0", "up"},
		// A userspace switch finishes no checksum, and neither does a bridge.
		{"ip", "netns", "exec", bridge, "ethtool", "-K", "eth0", "tx", "off"},
		{"ip", "-n", bridge, "route", "add", "default", "via", subnet + ".1"},
	} {
		must(t, k, argv...)
	}
	dockerRules(t, k, bridge, subnet)
	t.Cleanup(func() {
		must(t, k, "ip", "netns", "del", bridge)
		must(t, k, "ip", "link", "del", bridge)
	})
	a := attacker{bridge, k, []string{"ip", "netns", "exec", bridge}}
	eventually(t, eventualWait, "the container on "+bridge+" reaches the outside", func() error {
		if r := a.try(t, "", "ping", "-c", "1", "-W", "1", "203.0.113.1"); r.code != 0 {
			return fmt.Errorf("%s%s", r.stdout, r.stderr)
		}
		return nil
	})
}

// dockerRules are those of Docker for a network: it accepts what its containers
// send, and masquerades it.
func dockerRules(t testing.TB, k int, bridge, subnet string) {
	t.Helper()
	must(t, k, "iptables", "-w", "-t", "nat", "-A", "POSTROUTING", "-s", subnet+".0/24", "!", "-o", bridge, "-j", "MASQUERADE")
	must(t, k, "iptables", "-w", "-A", "FORWARD", "-i", bridge, "!", "-o", bridge, "-j", "ACCEPT")
	must(t, k, "iptables", "-w", "-A", "FORWARD", "-o", bridge, "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", "-j", "ACCEPT")
}

// smuggle has an attacker send a VXLAN packet, as a datagram, to the victim's host,
// with a datagram for the victim inside, and says whether the victim hears it.
func smuggle(t testing.TB, a attacker, victim end) bool {
	t.Helper()
	var n struct{ VNI uint32 }
	if err := json.Unmarshal([]byte(sp(t, victim.host, "network", "info", victim.network, "-o", "json")), &n); err != nil {
		t.Fatal(err)
	}
	inner := smuggled(victim.ip, "smuggled")
	packet := append(binary.BigEndian.AppendUint32([]byte{0x08, 0, 0, 0}, n.VNI<<8), inner...) // RFC 7348
	ears := make(chan result, 1)
	go func() {
		ears <- try(t, victim.host, "", "ip", "netns", "exec", victim.name,
			"timeout", "3", "tcpdump", "-l", "-n", "-c", "1", "-i", "eth0", "-A", "udp port 7777")
	}()
	addr := hosts.Host(victim.host).Addr.String()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		a.try(t, string(packet), "bash", "-c", `cat >"/dev/udp/$0/4789"`, addr)
		select {
		case r := <-ears:
			return strings.Contains(r.stdout, "smuggled")
		case <-tick.C:
		}
	}
}

// smuggled is an Ethernet frame with a datagram to port 7777 of an endpoint, from
// an address that nobody has.
func smuggled(ip, mark string) []byte {
	to := netip.MustParseAddr(ip).As4()
	mac := net.HardwareAddr{0x02, 0x42, to[0], to[1], to[2], to[3]}
	udp := []byte{0x1e, 0x61, 0x1e, 0x61, 0, byte(8 + len(mark)), 0, 0} // ports 7777, no checksum (RFC 768)
	udp = append(udp, mark...)
	header := []byte{0x45, 0, 0, byte(20 + len(udp)), 0, 1, 0, 0, 64, 17, 0, 0, to[0], to[1], to[2], 250, to[0], to[1], to[2], to[3]}
	var sum uint32
	for i := 0; i < len(header); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(header[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(header[10:], ^uint16(sum)) // RFC 1071
	return slices.Concat(mac, net.HardwareAddr{0x02, 0x42, to[0], to[1], to[2], 250}, []byte{0x08, 0x00}, header, udp)
}
