package ovs

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Every packet that the guard drops is counted, under its cause and for its
// endpoint; what passes is not.
func TestDrops(t *testing.T) {
	x := newTracer(t)
	f := traced()
	f.Segments[0].Local[0].Allowed = []netip.Prefix{prefix("10.6.0.200/32")}
	if err := x.s.SetForwarding(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a1p", "a2p", "b1p"} { // their kernel speaks IPv6
		x.i.Run(t, "ip", "link", "set", name, "down")
	}
	drops := func() map[int]map[Cause]uint64 {
		x.i.Run(t, "ovs-appctl", "revalidator/wait") // the datapath's counters are the flows'
		got, err := x.s.Drops(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	base := drops()
	for _, c := range []struct {
		n, port int
		src     int
		rest    string
	}{
		{1, portA1, 2, "icmp,nw_src=10.6.0.2,nw_dst=10.6.0.3"},   // its own
		{1, portA1, 2, "icmp,nw_src=10.6.0.200,nw_dst=10.6.0.3"}, // allowed
		{2, portA1, 2, "icmp,nw_src=10.6.0.9,nw_dst=10.6.0.3"},
		{1, portA1, 2, "udp,nw_src=0.0.0.0,nw_dst=255.255.255.255"},
		{2, portA1, 2, "arp,arp_op=1,arp_spa=10.6.0.9,arp_tpa=10.6.0.3,arp_sha=" + mac(2)},
		{1, portA1, 2, "arp,arp_op=1,arp_spa=10.6.0.2,arp_tpa=10.6.0.3,arp_sha=" + mac(3)},
		{4, portA1, 7, "icmp,nw_src=10.6.0.2,nw_dst=10.6.0.3"},
		{1, portA1, 7, "arp,arp_op=1,arp_spa=10.6.0.2,arp_tpa=10.6.0.3,arp_sha=" + mac(7)},
		{3, portA1, 2, "icmp6,ipv6_src=fe80::1,ipv6_dst=ff02::2"},
		{1, portA1, 2, "dl_type=0x88cc"},
		{1, portA1, 2, "dl_vlan=7,icmp,nw_src=10.6.0.2,nw_dst=10.6.0.3"},
		{1, portA2, 3, "icmp,nw_src=10.6.0.200,nw_dst=10.6.0.2"}, // not allowed to this one
	} {
		for range c.n {
			packet := bytesOf(x.i.Run(t, "ovs-ofctl", "compose-packet", fmt.Sprintf("dl_src=%s,dl_dst=%s,%s", mac(c.src), mac(3), c.rest)))
			x.i.Run(t, "ovs-ofctl", "-O", "OpenFlow13", "packet-out", DefaultBridge, fmt.Sprintf("in_port=%d,packet=%s,actions=table", c.port, packet))
		}
	}
	want := map[int]map[Cause]uint64{
		portA1: {CauseSource: 3, CauseARP: 3, CauseMAC: 5, CauseIPv6: 3, CauseOther: 2},
		portA2: {CauseSource: 1},
	}
	check := func(when string) {
		t.Helper()
		got := drops()
		for port, causes := range base {
			for cause, n := range causes {
				if got[port][cause] -= n; got[port][cause] == 0 {
					delete(got[port], cause)
				}
			}
			if len(got[port]) == 0 {
				delete(got, port)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", when, diff)
		}
	}
	check("counted")
	// Writing the same flows again, and comparing them, keeps the counts.
	if err := x.s.Resync(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	check("after a comparison")
}

// bytesOf takes the bytes out of a dump as ovs-ofctl prints it.
func bytesOf(dump string) string {
	var packet strings.Builder
	for line := range strings.Lines(dump) {
		if _, line, ok := strings.Cut(line, "  "); ok {
			packet.WriteString(strings.NewReplacer(" ", "", "-", "", "\n", "").Replace(line))
		}
	}
	return packet.String()
}

func TestParseDrops(t *testing.T) {
	got := parseDrops(`OFPST_FLOW reply (OF1.4) (xid=0x2):
 cookie=0x736f636b, duration=1.2s, table=1, n_packets=3, n_bytes=9, idle_age=0, priority=31,in_port=5 actions=drop
 cookie=0x736f636b, duration=1.2s, table=1, n_packets=7, n_bytes=9, priority=51,ip,in_port=5,vlan_tci=0x0000/0x1fff,dl_src=02:42:0a:06:00:02 actions=drop
 cookie=0x736f636b, duration=1.2s, table=1, n_packets=9, n_bytes=9, priority=100,ip,in_port=5,nw_src=10.6.0.2 actions=goto_table:3
 cookie=0x736f636b, duration=1.2s, table=1, n_packets=0, n_bytes=0, priority=52,arp,in_port=6 actions=drop
 cookie=0x736f636b, duration=1.2s, table=1, n_packets=18446744073709551615, n_bytes=0, priority=52,arp,in_port=6 actions=drop
 cookie=0x736f636b, duration=1.2s, table=1, n_packets=4, n_bytes=0, priority=0 actions=drop
 priority=31,in_port=x,n_packets=1 actions=drop
 nonsense
`)
	want := map[int]map[Cause]uint64{5: {CauseMAC: 3, CauseSource: 7}, 6: {CauseARP: 1<<64 - 1}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
