package systemtest

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/socketplane/socketplane/agent/systemtest/lab"
)

// settle is how long a copy too many has to show up after the last frame that
// was waited for.
const settle = 300 * time.Millisecond

// Promise: one broadcast from one container arrives exactly once at every member
// on every host and at no other network's container; tcpdump on the underlay
// shows the network's VNI, one copy a host with members, and no 802.1Q tag.
func TestBroadcastArrivesOnce(t *testing.T) {
	makeNetwork(t, 1, "bcast", "10.140.0.0/24")
	makeNetwork(t, 1, "bother", "10.141.0.0/24")
	sender := runContainer(t, 1, "bcast", "bc-sender")
	members := []container{
		runContainer(t, 1, "bcast", "bc-1"), // beside the sender
		runContainer(t, 2, "bcast", "bc-2a"), runContainer(t, 2, "bcast", "bc-2b"),
		runContainer(t, 3, "bcast", "bc-3"),
	}
	others := []container{runContainer(t, 1, "bother", "bo-1"), runContainer(t, 2, "bother", "bo-2")}
	for _, c := range members {
		eventually(t, "the sender reaches "+c.name, func() error { return sender.pings(t, c.ip) })
	}
	eventually(t, "the other network works", func() error { return others[0].pings(t, others[1].ip) })

	own := tapContainer(t, sender)
	var inside, apart []*wire
	for _, c := range members {
		inside = append(inside, tapContainer(t, c))
	}
	for _, c := range others {
		apart = append(apart, tapContainer(t, c))
	}
	underlay := tapOf(t, "the underlay", underlayNamespace, "br0")

	src := sender.station(t)
	targets := map[string]station{
		"all-hosts": everybody,
		"subnet":    everybody.at(netip.MustParseAddr("10.140.0.255")),
		"multicast": {[]byte{0x01, 0, 0x5e, 0, 0, 0xfb}, netip.MustParseAddr("224.0.0.251")},
	}
	var marks []string
	for kind, dst := range targets {
		for i := range 10 {
			mark := fmt.Sprintf("<once %s %d>", kind, i)
			own.send(t, datagram(src, dst, mark))
			marks = append(marks, mark)
		}
	}
	// Who is apart hears its own network: silence there means isolation.
	first := tapContainer(t, others[0])
	first.send(t, datagram(others[0].station(t), everybody, "<the other network>"))
	apart[1].await(t, "<the other network>")
	for _, w := range inside {
		for _, m := range marks {
			w.await(t, m)
		}
	}
	<-time.After(settle)

	for _, m := range marks {
		for _, w := range inside {
			if n := w.heard(m); n != 1 {
				t.Errorf("%s heard %s %d times", w.name, m, n)
			}
		}
		for _, w := range append([]*wire{own}, apart...) {
			if n := w.heard(m); n != 0 {
				t.Errorf("%s, which must not, heard %s %d times", w.name, m, n)
			}
		}
	}
	for _, w := range append([]*wire{own}, inside...) {
		if w.heard("<the other network>") != 0 {
			t.Errorf("%s heard the other network's broadcast", w.name)
		}
	}
	onWire(t, underlay, vniOf(t, 1, "bcast"), marks)
}

// onWire checks what the underlay saw of h1's broadcasts.
func onWire(t *testing.T, underlay *wire, vni uint32, marks []string) {
	t.Helper()
	eventually(t, "all is on the underlay for both hosts", func() error { // what listens here may be behind
		n := 0
		for _, f := range underlay.all() {
			if slices.ContainsFunc(marks, func(m string) bool { return bytes.Contains(f.data, []byte(m)) }) {
				n++
			}
		}
		if n < 2*len(marks) {
			return fmt.Errorf("%d of %d frames", n, 2*len(marks))
		}
		return nil
	})
	copies := map[string]int{}
	for _, f := range underlay.all() {
		for _, m := range marks {
			if !bytes.Contains(f.data, []byte(m)) {
				continue
			}
			v, ok := encapsulated(f)
			switch {
			case !ok:
				t.Errorf("%s is on the underlay outside VXLAN: %x", m, f.data)
			case v.vni != vni:
				t.Errorf("%s is on the underlay with VNI %d, the network has %d", m, v.vni, vni)
			case f.tagged || v.inner.tagged:
				t.Errorf("%s is on the underlay with an 802.1Q tag: %x", m, f.data)
			}
			copies[fmt.Sprintf("%s %s > %s", m, v.src, v.dst)]++
		}
	}
	for _, m := range marks {
		for k := 2; k <= 3; k++ {
			copy := fmt.Sprintf("%s %s > %s", m, cluster.Host(1).Addr, cluster.Host(k).Addr)
			if copies[copy] != 1 {
				t.Errorf("underlay: %s: %d times, want 1", copy, copies[copy])
			}
			delete(copies, copy)
		}
	}
	for copy, n := range copies {
		t.Errorf("underlay: %s: %d times, want none", copy, n)
	}
}

// Promise: a frame with the network's VNI from an address that is no peer's is
// not delivered. The same bytes from a peer's address are.
func TestStrangersAreNotHeard(t *testing.T) {
	makeNetwork(t, 1, "strange", "10.142.0.0/24")
	a, b := runContainer(t, 1, "strange", "st-a"), runContainer(t, 2, "strange", "st-b")
	eventually(t, "the containers reach each other", func() error { return b.pings(t, a.ip) })
	ear := tapContainer(t, a)
	gate := tapOf(t, "gateway of h1", cluster.Host(1).Namespace(), gatewayPort("strange"))
	inside, from := a.station(t), b.station(t)
	vni := vniOf(t, 1, "strange")

	// The underlay's end of h1's wire: what is sent here reaches h1 alone.
	port := tapOf(t, "wire to h1", underlayNamespace, "h1")
	vtep := func(k int) station {
		mac := strings.TrimSpace(must(t, k, "cat", "/sys/class/net/br-phy/address"))
		return stationOf(t, mac, cluster.Host(k).Addr.String())
	}
	h1, peer := vtep(1), vtep(2)
	gateway := stationOf(t, macOfGateway(t, 1, "strange"), "10.142.0.1")
	to := map[string]station{"unicast": inside, "broadcast": everybody, "gateway": gateway.at(h1.ip)}
	packet := func(outer station, kind, who string) []byte {
		return encapsulate(outer, h1, vni, datagram(from, to[kind], fmt.Sprintf("<%s %s>", kind, who)))
	}
	strangers := map[string]station{
		"stranger":             nobody.at(netip.MustParseAddr("198.18.0.200")),
		"stranger on the wire": peer.at(netip.MustParseAddr("198.18.0.201")), // a peer's MAC
		"outside":              nobody.at(lab.Outside),
		"itself":               peer.at(h1.ip),
	}
	for who, outer := range strangers {
		for kind := range to {
			for range 5 {
				port.send(t, packet(outer, kind, who))
			}
		}
	}
	// They went first on the same way, so they would have come first.
	for kind := range to {
		port.send(t, packet(peer, kind, "peer"))
	}
	ear.await(t, "<unicast peer>")
	ear.await(t, "<broadcast peer>")
	gate.await(t, "<gateway peer>")
	<-time.After(settle)
	for who := range strangers {
		for kind := range to {
			for _, w := range []*wire{ear, gate} {
				if n := w.heard(fmt.Sprintf("<%s %s>", kind, who)); n != 0 {
					t.Errorf("%s heard %d of 5 frames (%s) from %s", w.name, n, kind, who)
				}
			}
		}
	}
}
