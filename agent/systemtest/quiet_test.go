package systemtest

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/socketplane/socketplane/agent/link"
)

func gatewayPort(network string) string { return link.GatewayName(network) }

// macOfGateway is the MAC of the network's gateway as host k has it.
func macOfGateway(t testing.TB, k int, network string) string {
	t.Helper()
	return strings.TrimSpace(must(t, k, "cat", "/sys/class/net/"+gatewayPort(network)+"/address"))
}

// Promise: no ARP or ND on the underlay while fresh containers find each other.
func TestFindingEachOtherIsQuiet(t *testing.T) {
	subnet := netip.MustParsePrefix("10.143.0.0/24")
	knowsFinding(t, subnet)
	underlay := tapOf(t, "the underlay", underlayNamespace, "br0")
	makeNetwork(t, 1, "quiet", subnet.String())
	var all []container
	for k := 1; k <= 3; k++ {
		all = append(all, runContainer(t, k, "quiet", fmt.Sprintf("qu-%d", k)))
	}
	listen(t, all[0])
	for _, from := range all {
		for _, to := range all {
			if from != to {
				eventually(t, from.name+" reaches "+to.name, func() error { return from.pings(t, to.ip) })
			}
		}
		eventually(t, from.name+" reaches its gateway", func() error { return from.pings(t, "10.143.0.1") })
	}
	must(t, 3, "docker", "exec", "qu-3", "wget", "-q", "-O", "/dev/null", "http://"+all[0].ip+"/hosts")
	// A neighbour that does not exist is asked for on the spot, too.
	if err := all[0].pings(t, "10.143.0.250"); err == nil {
		t.Error("an address that nobody has answers")
	}

	kinds := map[string]int{}
	for _, v := range underlay.vxlans(vniOf(t, 1, "quiet")) {
		kinds[kindOf(v.inner.data)]++
		if k := kindOf(v.inner.data); k == "ARP" || k == "ND" {
			t.Errorf("%s from %s to %s on the underlay: %x", k, v.src, v.dst, v.inner.data)
		}
	}
	if kinds["IPv4"] < 2*6 { // six pairs, there and back
		t.Errorf("only %d IPv4 packets of the network were seen on the underlay", kinds["IPv4"])
	}
	outer := map[string]int{}
	for _, f := range underlay.all() {
		outer[kindOf(f.data)]++
		if finds(f.data, subnet) {
			t.Errorf("%s of the network on the underlay, in no tunnel: %x", kindOf(f.data), f.data)
		}
	}
	t.Logf("inside the network: %v; the underlay itself: %v", kinds, outer)
}

// kindOf tells neighbour discovery from the rest.
func kindOf(f []byte) string {
	switch {
	case len(f) < 14:
		return "short"
	case etherType(f) == unix.ETH_P_ARP:
		return "ARP"
	case etherType(f) == unix.ETH_P_IP:
		return "IPv4"
	case etherType(f) == unix.ETH_P_IPV6 && len(f) > 54 && f[20] == unix.IPPROTO_ICMPV6 && f[54] >= 133 && f[54] <= 137:
		return "ND" // RFC 4861
	case etherType(f) == unix.ETH_P_IPV6:
		return "IPv6"
	}
	return fmt.Sprintf("%#04x", etherType(f))
}

// finds says whether a frame is ARP or ND by or about a station of the subnet. There
// ND knows stations by the MAC that is made of their address, and by the link-local
// address that is made of that (RFC 4291, appendix A).
func finds(f []byte, subnet netip.Prefix) bool {
	for ip := subnet.Addr(); subnet.Contains(ip); ip = ip.Next() {
		a := ip.As4()
		var known [][]byte
		switch kindOf(f) {
		case "ARP":
			known = [][]byte{append([]byte{0x02, 0x42}, a[:]...)}
			if len(f) >= 42 && (bytes.Equal(f[28:32], a[:]) || bytes.Equal(f[38:42], a[:])) { // sender, target
				return true
			}
		case "ND":
			known = [][]byte{append([]byte{0x02, 0x42}, a[:]...), {0x00, 0x42, a[0], 0xff, 0xfe, a[1], a[2], a[3]}}
		}
		if slices.ContainsFunc(known, func(k []byte) bool { return bytes.Contains(f, k) }) {
			return true
		}
	}
	return false
}

// knowsFinding is the control of finds: it knows what it is for, and only that.
func knowsFinding(t *testing.T, subnet netip.Prefix) {
	t.Helper()
	at := func(n byte) station {
		a := subnet.Addr().As4()
		a[3] = n
		return station{net.HardwareAddr{0x02, 0x42, a[0], a[1], a[2], n}, netip.AddrFrom4(a)}
	}
	x, y, vtep := at(2), at(64), station{nobody.mac, netip.MustParseAddr("198.18.0.1")}
	six := "fe80::42:" + fmt.Sprintf("%xff:fe%02x:%x", subnet.Addr().As4()[0], subnet.Addr().As4()[1], 2)
	solicit := append([]byte{135, 0, 0, 0, 0, 0, 0, 0}, netip.MustParseAddr(six).AsSlice()...)
	for what, f := range map[string][]byte{
		"a question":                           arp(x.mac, everybody.mac, arpRequest, x, y, ""),
		"an answer":                            arp(y.mac, x.mac, arpReply, y, x, ""),
		"a question by who has no address yet": arp(x.mac, everybody.mac, arpRequest, x.at(netip.IPv4Unspecified()), vtep, ""),
		"a question of the host's":             arp(vtep.mac, everybody.mac, arpRequest, vtep, y, ""),
		"ND of a container":                    ipv6(x.mac, everybody.mac, "fe80::1", "ff02::1", unix.IPPROTO_ICMPV6, solicit, ""),
		"ND about a container":                 ipv6(vtep.mac, everybody.mac, "fe80::1", "ff02::1", unix.IPPROTO_ICMPV6, solicit, ""),
	} {
		if !finds(f, subnet) {
			t.Errorf("%s is not known: %x", what, f)
		}
	}
	for what, f := range map[string][]byte{
		"a question between hosts": arp(vtep.mac, everybody.mac, arpRequest, vtep, vtep.at(netip.MustParseAddr("198.18.0.2")), ""),
		"a datagram":               datagram(x, y, ""),
	} {
		if finds(f, subnet) {
			t.Errorf("%s is taken for one: %x", what, f)
		}
	}
}

// lie is a frame that a container may not send.
type lie struct {
	what  string
	frame func(mark string) []byte
}

// lies are those that x can tell, to and about each of the others.
func lies(x station, others map[string]station) []lie {
	free := netip.MustParseAddr("10.144.0.200")
	var all []lie
	add := func(what string, f func(mark string) []byte) { all = append(all, lie{what, f}) }
	for to, dst := range others {
		for who, src := range map[string]station{
			"a free address":   x.at(free),
			"no address":       x.at(netip.IPv4Unspecified()),
			"an outer address": x.at(netip.MustParseAddr("8.8.8.8")),
			"another MAC":      x.as(nobody.mac),
			"another at all":   nobody.at(free),
		} {
			add(fmt.Sprintf("UDP to %s from %s", to, who), func(m string) []byte { return datagram(src, dst, m) })
		}
		for who, victim := range others {
			if who == "all" {
				continue
			}
			add(fmt.Sprintf("UDP to %s from %s's address", to, who), func(m string) []byte { return datagram(x.at(victim.ip), dst, m) })
			add(fmt.Sprintf("UDP to %s as %s", to, who), func(m string) []byte { return datagram(victim, dst, m) })
			for name, op := range map[string]uint16{"request": arpRequest, "reply": arpReply} {
				add(fmt.Sprintf("ARP %s to %s: %s is here", name, to, who), func(m string) []byte {
					return arp(x.mac, dst.mac, op, x.at(victim.ip), dst, m)
				})
				add(fmt.Sprintf("gratuitous ARP %s to %s: %s is here", name, to, who), func(m string) []byte {
					return arp(x.mac, dst.mac, op, x.at(victim.ip), x.at(victim.ip), m)
				})
				add(fmt.Sprintf("ARP %s to %s from %s's MAC", name, to, who), func(m string) []byte {
					return arp(victim.mac, dst.mac, op, victim.at(x.ip), dst, m)
				})
			}
			add(fmt.Sprintf("ARP to %s: %s has my address", to, who), func(m string) []byte {
				return arp(x.mac, dst.mac, arpReply, victim.at(x.ip), dst, m)
			})
		}
		add("ARP to "+to+": the free address is here", func(m string) []byte {
			return arp(x.mac, dst.mac, arpReply, x.at(free), dst, m)
		})
		for _, vlan := range []uint16{0, 1, 100} {
			add(fmt.Sprintf("tag %d to %s", vlan, to), func(m string) []byte { return tag(datagram(x, dst, m), vlan) })
		}
		for name, kind := range map[string]uint16{"LLDP": 0x88cc, "experimental": 0x88b5, "MPLS": 0x8847} {
			add(name+" to "+to, func(m string) []byte { return ethernet(x.mac, dst.mac, kind, []byte(m)) })
		}
		all = append(all, lies6(x, to, dst.mac)...)
	}
	bpdu := net.HardwareAddr{0x01, 0x80, 0xc2, 0, 0, 0}
	add("spanning tree", func(m string) []byte { return ethernet(x.mac, bpdu, 38, append([]byte{0x42, 0x42, 3}, m...)) })
	return all
}

// lies6 are IPv6: these networks have none, so all of it is a lie.
func lies6(x station, to string, dst net.HardwareAddr) []lie {
	const mine, yours, nodes = "fe80::42:aff:fe90:2", "fe80::42:aff:fe90:3", "ff02::1"
	advert := func(kind byte) []byte {
		p := append([]byte{kind, 0, 0, 0, 0x60, 0, 0, 0}, netip.MustParseAddr(yours).AsSlice()...)
		return slices.Concat(p, []byte{2, 1}, x.mac) // target link-layer address
	}
	six := func(addr string, next byte, payload []byte) func(string) []byte {
		return func(m string) []byte { return ipv6(x.mac, dst, mine, addr, next, payload, m) }
	}
	return []lie{
		{"IPv6 datagram to " + to, six(yours, unix.IPPROTO_UDP, udp(9, nil))},
		{"IPv6 multicast to " + to, six(nodes, unix.IPPROTO_UDP, udp(9, nil))},
		{"router advertisement to " + to, six(nodes, unix.IPPROTO_ICMPV6, make([]byte, 16))},
		{"neighbour solicitation to " + to, six(nodes, unix.IPPROTO_ICMPV6, advert(135))},
		{"neighbour advertisement to " + to, six(nodes, unix.IPPROTO_ICMPV6, advert(136))},
	}
}

// Promise: a container that uses another address or MAC is not heard by anyone:
// not by a member beside it, not by one on another host, not by the gateway.
func TestLiesAreNotHeard(t *testing.T) {
	makeNetwork(t, 1, "lies", "10.144.0.0/24")
	x, y, z := runContainer(t, 1, "lies", "li-x"), runContainer(t, 1, "lies", "li-y"), runContainer(t, 2, "lies", "li-z")
	for _, c := range []container{y, z} {
		eventually(t, "reach "+c.name, func() error { return x.pings(t, c.ip) })
	}
	mouth := tapContainer(t, x)
	ears := map[string]*wire{
		"neighbour": tapContainer(t, y), "remote": tapContainer(t, z),
		"gateway": tapOf(t, "gateway", cluster.Host(1).Namespace(), gatewayPort("lies")),
		"all":     tapOf(t, "gateway of h2", cluster.Host(2).Namespace(), gatewayPort("lies")),
	}
	me := x.station(t)
	others := map[string]station{
		"neighbour": y.station(t), "remote": z.station(t),
		"gateway": stationOf(t, macOfGateway(t, 1, "lies"), "10.144.0.1"), "all": everybody,
	}

	all := lies(me, others)
	for i, l := range all {
		// Short enough for the padding of an ARP frame, and none begins another.
		mouth.send(t, l.frame(fmt.Sprintf("<lie %d>", i)))
	}
	// The truth, sent last on the same ways, is heard.
	for to, dst := range others {
		mouth.send(t, datagram(me, dst, "<truth to "+to+">"))
	}
	for _, to := range []string{"neighbour", "remote", "gateway"} {
		ears[to].await(t, "<truth to "+to+">")
	}
	ears["neighbour"].await(t, "<truth to all>")
	ears["remote"].await(t, "<truth to all>")
	<-time.After(settle)
	for i, l := range all {
		for _, ear := range ears {
			if n := ear.heard(fmt.Sprintf("<lie %d>", i)); n != 0 {
				t.Errorf("%s was heard at %s", l.what, ear.name)
			}
		}
	}
	t.Logf("%d lies were told", len(all))
}

// Promise: the same for a container whose own kernel uses another address or MAC.
func TestChangedAddressIsNotHeard(t *testing.T) {
	makeNetwork(t, 1, "changed", "10.145.0.0/24")
	x, y, z := runContainer(t, 1, "changed", "ch-x"), runContainer(t, 1, "changed", "ch-y"), runContainer(t, 2, "changed", "ch-z")
	targets := map[string]string{"neighbour": y.ip, "remote": z.ip, "gateway": "10.145.0.1"}
	for to, ip := range targets {
		eventually(t, "reach the "+to, func() error { return x.pings(t, ip) })
	}
	ip := append([]string{"nsenter", "-t", pidOf(t, x), "-n"}, "ip")
	mac := info(t, 1, x.name).MAC
	changes := []struct {
		name       string
		set, unset []string
	}{
		{
			"another MAC",
			[]string{"link set eth0 address 02:42:aa:bb:cc:dd"},
			[]string{"link set eth0 address " + mac},
		},
		{
			"another address",
			[]string{"addr del " + x.ip + "/24 dev eth0", "addr add 10.145.0.99/24 dev eth0"},
			[]string{"addr del 10.145.0.99/24 dev eth0", "addr add " + x.ip + "/24 dev eth0"},
		},
		{
			"the neighbour's address",
			[]string{"addr add " + y.ip + "/32 dev eth0", "route replace 10.145.0.0/24 dev eth0 src " + y.ip},
			[]string{"route replace 10.145.0.0/24 dev eth0 src " + x.ip, "addr del " + y.ip + "/32 dev eth0"},
		},
	}
	for _, c := range changes {
		t.Run(c.name, func(t *testing.T) {
			apply := func(lines []string) {
				for _, l := range lines {
					must(t, 1, append(ip, strings.Fields(l)...)...)
				}
			}
			ears := []*wire{
				tapContainer(t, y), tapContainer(t, z),
				tapOf(t, "gateway", cluster.Host(1).Namespace(), gatewayPort("changed")),
			}
			apply(c.set)
			var probes []*prober
			for to, target := range targets {
				if to == "neighbour" && strings.Contains(c.name, to) {
					continue // that would be itself
				}
				probes = append(probes, startProbe(t, to, x.namespace(t), target))
			}
			for _, p := range probes {
				p.awaitSent(t, 20)
				if sent, lost := p.finish(settle); len(lost) != sent {
					t.Errorf("%s answers %d of %d pings", p.name, sent-len(lost), sent)
				}
			}
			for _, ear := range ears {
				for _, f := range ear.all() {
					// The switch's answers to the ear's own questions do not come from x.
					answer := kindOf(f.data) == "ARP" && len(f.data) > 21 && f.data[21] == arpReply
					if !f.sent && !answer {
						t.Errorf("heard at %s: %x", ear.name, f.data)
					}
				}
			}
			apply(c.unset)
			for to, ip := range targets {
				eventually(t, "reach the "+to+" again", func() error { return x.pings(t, ip) })
			}
		})
	}
}
