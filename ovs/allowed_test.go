package ovs

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// sharing is traced() with addresses that endpoints are allowed beside their own:
// 10.6.0.200 in network A is that of a1 here and of 10.6.0.4 on peer 0, to move
// between them; a1 routes for 10.99.0.0/16, too. b1 is allowed 10.6.0.201 in network B.
func sharing() Forwarding {
	f := traced()
	vip := prefix("10.6.0.200/32")
	f.Segments[0].Local[0].Allowed = []netip.Prefix{vip, prefix("10.99.0.0/16")}
	f.Segments[0].Remote[0].Allowed = []netip.Prefix{vip, prefix("10.98.0.0/16")}
	f.Segments[1].Local[0].Allowed = []netip.Prefix{prefix("10.6.0.201/32")}
	return f
}

func TestAllowedPackets(t *testing.T) {
	x := newTracer(t)
	if err := x.s.SetForwarding(t.Context(), sharing()); err != nil {
		t.Fatal(err)
	}
	const all = "ff:ff:ff:ff:ff:ff"
	from := func(port int, src, dst, rest string) string {
		return fmt.Sprintf("in_port=%d,dl_src=%s,dl_dst=%s,%s", port, src, dst, rest)
	}
	tunnel := func(port, vni int, src, dst, rest string) string {
		return fmt.Sprintf("tun_id=%d,tun_src=198.18.0.9,tun_dst=198.18.0.1,", vni) + from(port, src, dst, rest)
	}
	arp := func(op int, sha, spa, tpa string) string {
		return fmt.Sprintf("arp,arp_op=%d,arp_sha=%s,arp_spa=%s,arp_tpa=%s", op, sha, spa, tpa)
	}
	ip := func(src, dst string) string { return fmt.Sprintf("icmp,nw_src=%s,nw_dst=%s", src, dst) }
	const vip = "10.6.0.200"
	self, peer0, peer1 := hostMAC(addr("198.18.0.1")), hostMAC(addr("198.18.0.2")), hostMAC(addr("198.18.0.3"))
	for name, c := range map[string]struct {
		flow string
		want []string
	}{
		// What is allowed.
		"from the allowed address":               {from(portA1, mac(2), mac(3), ip(vip, "10.6.0.3")), []string{"2"}},
		"from the allowed address, there":        {from(portA1, mac(2), mac(5), ip(vip, "10.6.0.5")), []string{"6/100"}},
		"from its own address still":             {from(portA1, mac(2), mac(3), ip("10.6.0.2", "10.6.0.3")), []string{"2"}},
		"from the prefix that it routes for":     {from(portA1, mac(2), mac(3), ip("10.99.3.4", "10.6.0.3")), []string{"2"}},
		"to the prefix that it routes for":       {from(portA2, mac(3), mac(2), ip("10.6.0.3", "10.99.3.4")), []string{"1"}},
		"its announcement":                       {from(portA1, mac(2), all, arp(1, mac(2), vip, vip)), []string{"4", "2", "5/100", "6/100"}},
		"its announcement, as a reply":           {from(portA1, mac(2), all, arp(2, mac(2), vip, vip)), []string{"4", "2", "5/100", "6/100"}},
		"an answer to one here":                  {from(portA1, mac(2), mac(3), arp(2, mac(2), vip, "10.6.0.3")), []string{"2"}},
		"an answer to one there":                 {from(portA1, mac(2), mac(5), arp(2, mac(2), vip, "10.6.0.5")), []string{"6/100"}},
		"an answer to this host":                 {from(portA1, mac(2), mac(1), arp(2, mac(2), vip, "198.18.0.1")), []string{"4"}},
		"an answer to another host":              {from(portA1, mac(2), peer0, arp(2, mac(2), vip, "198.18.0.2")), []string{"5/100"}},
		"who has it asks for one here":           {from(portA1, mac(2), all, arp(1, mac(2), vip, "10.6.0.3")), []string{"IN_PORT"}},
		"a request goes to those who may":        {from(portA2, mac(3), all, arp(1, mac(3), "10.6.0.3", vip)), []string{"1", "5/100"}},
		"one who may asks the others":            {from(portA1, mac(2), all, arp(1, mac(2), "10.6.0.2", vip)), []string{"5/100"}},
		"this host asks":                         {from(portGW, mac(1), all, arp(1, mac(1), "10.6.0.1", vip)), []string{"1", "5/100"}},
		"a request from there":                   {tunnel(portT2, vniA, mac(5), all, arp(1, mac(5), "10.6.0.5", vip)), []string{"1"}},
		"one there that routes asks":             {tunnel(portT1, vniA, mac(4), all, arp(1, mac(4), "10.98.0.9", vip)), []string{"1"}},
		"another host asks":                      {tunnel(portT2, vniA, peer1, all, arp(1, peer1, "198.18.0.3", vip)), []string{"1"}},
		"an announcement from there":             {tunnel(portT1, vniA, mac(4), all, arp(1, mac(4), vip, vip)), []string{"4", "1", "2"}},
		"an answer from there":                   {tunnel(portT1, vniA, mac(4), mac(3), arp(2, mac(4), vip, "10.6.0.3")), []string{"2"}},
		"an answer from there to this host":      {tunnel(portT1, vniA, mac(4), self, arp(2, mac(4), vip, "198.18.0.1")), []string{"4"}},
		"in the other network, for who may":      {from(portB1, mac(2), mac(6), ip("10.6.0.201", "10.6.0.6")), []string{"5/200"}},
		"to the world from the allowed address":  {from(portA1, mac(2), mac(1), ip(vip, "203.0.113.1")), []string{"4"}},
		"who routes asks from behind it":         {from(portA1, mac(2), all, arp(1, mac(2), "10.99.0.1", "10.6.0.3")), []string{"IN_PORT"}},
		"who routes asks from behind it, shared": {from(portA1, mac(2), all, arp(1, mac(2), "10.99.0.1", vip)), []string{"5/100"}},
		"a known endpoint's ARP is still simple": {from(portA2, mac(3), all, arp(1, mac(3), "10.6.0.3", "10.6.0.5")), []string{"IN_PORT"}},

		// Attacks of a container.
		"one that is not allowed it, by IP":            {from(portA2, mac(3), mac(2), ip(vip, "10.6.0.2")), nil},
		"one that is not allowed it, by ARP":           {from(portA2, mac(3), all, arp(1, mac(3), vip, "10.6.0.2")), nil},
		"one that is not allowed it, announces":        {from(portA2, mac(3), all, arp(1, mac(3), vip, vip)), nil},
		"one that is not allowed it, replies":          {from(portA2, mac(3), mac(2), arp(2, mac(3), vip, "10.6.0.2")), nil},
		"with the MAC of one that is":                  {from(portA2, mac(2), all, arp(1, mac(2), vip, vip)), nil},
		"an announcement with another's MAC in it":     {from(portA1, mac(2), all, arp(1, mac(3), vip, vip)), nil},
		"an announcement with another's MAC on it":     {from(portA1, mac(3), all, arp(1, mac(2), vip, vip)), nil},
		"allowed another address":                      {from(portA1, mac(2), all, arp(1, mac(2), "10.6.0.201", "10.6.0.201")), nil},
		"allowed in another network":                   {from(portA2, mac(3), mac(2), ip("10.6.0.201", "10.6.0.2")), nil},
		"what is allowed in A, in B":                   {from(portB1, mac(2), mac(6), ip(vip, "10.6.0.6")), nil},
		"an announcement of what is allowed in A in B": {from(portB1, mac(2), all, arp(1, mac(2), vip, vip)), nil},
		"ARP for a prefix that it routes for":          {from(portA1, mac(2), all, arp(1, mac(2), "10.99.0.1", "10.99.0.1")), nil},
		"an answer for a prefix that it routes for":    {from(portA1, mac(2), mac(3), arp(2, mac(2), "10.99.0.1", "10.6.0.3")), nil},
		"ARP from behind another":                      {from(portA2, mac(3), all, arp(1, mac(3), "10.99.0.1", "10.6.0.2")), nil},
		"the gateway's address":                        {from(portA1, mac(2), all, arp(1, mac(2), "10.6.0.1", "10.6.0.1")), nil},
		"a request as a host":                          {from(portA2, peer0, all, arp(1, peer0, "198.18.0.2", vip)), nil},
		"an answer of its own address to another host": {from(portA2, mac(3), peer0, arp(2, mac(3), "10.6.0.3", "198.18.0.2")), nil},
		"IP to another host's MAC":                     {from(portA1, mac(2), peer0, ip("10.6.0.2", "198.18.0.2")), nil},
		"tagged":                                       {from(portA1, mac(2), mac(3), "dl_vlan=7,"+ip(vip, "10.6.0.3")), nil},

		// Attacks of a host, by its tunnel: only what its own list says.
		"a host without it announces":            {tunnel(portT2, vniA, mac(5), all, arp(1, mac(5), vip, vip)), nil},
		"a host without it replies":              {tunnel(portT2, vniA, mac(5), mac(3), arp(2, mac(5), vip, "10.6.0.3")), nil},
		"a host announces with one's MAC there":  {tunnel(portT2, vniA, mac(4), all, arp(1, mac(4), vip, vip)), nil},
		"a host announces with one's MAC here":   {tunnel(portT1, vniA, mac(2), all, arp(1, mac(2), vip, vip)), nil},
		"a host announces with another MAC":      {tunnel(portT1, vniA, mac(4), all, arp(1, mac(99), vip, vip)), nil},
		"a host announces one's own address":     {tunnel(portT1, vniA, mac(4), all, arp(1, mac(4), "10.6.0.3", "10.6.0.3")), nil},
		"a host announces the gateway":           {tunnel(portT1, vniA, mac(4), all, arp(1, mac(4), "10.6.0.1", "10.6.0.1")), nil},
		"a host announces in another network":    {tunnel(portT1, vniB, mac(4), all, arp(1, mac(4), vip, vip)), nil},
		"a host announces what is allowed there": {tunnel(portT1, vniB, mac(6), all, arp(1, mac(6), "10.6.0.201", "10.6.0.201")), nil},
		"a host asks as another's endpoint":      {tunnel(portT1, vniA, mac(5), all, arp(1, mac(5), "10.6.0.5", vip)), nil},
		"a host asks as its own with a lie":      {tunnel(portT1, vniA, mac(4), all, arp(1, mac(4), "10.6.0.3", vip)), nil},
		"a host asks as another host":            {tunnel(portT1, vniA, peer1, all, arp(1, peer1, "198.18.0.3", vip)), nil},
		"a host asks for one that is not shared": {tunnel(portT1, vniA, mac(4), all, arp(1, mac(4), "10.6.0.4", "10.6.0.3")), nil},
		"a host announces from behind":           {tunnel(portT1, vniA, mac(4), all, arp(1, mac(4), "10.98.0.9", "10.98.0.9")), nil},
		"a host answers for its endpoint's own":  {tunnel(portT1, vniA, mac(4), mac(3), arp(2, mac(4), "10.6.0.4", "10.6.0.3")), nil},
		"a host answers this host as another":    {tunnel(portT2, vniA, mac(4), self, arp(2, mac(4), vip, "198.18.0.1")), nil},
	} {
		got, raw := x.trace(t, c.flow)
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s%s", name, diff, raw)
		}
	}
	// What was rendered is what the switch lists, or each comparison would write again.
	before := x.i.Run(t, "ovs-ofctl", "-O", "OpenFlow14", "--no-names", "dump-flows", DefaultBridge)
	if err := x.s.Resync(t.Context(), sharing()); err != nil {
		t.Fatal(err)
	}
	count := func(s string) int { return strings.Count(s, "cookie=") }
	if after := x.i.Run(t, "ovs-ofctl", "-O", "OpenFlow14", "--no-names", "dump-flows", DefaultBridge); count(after) != count(before) {
		t.Errorf("a comparison changed the flows:\n%s\n%s", before, after)
	}
}

// A host's question leaves with a MAC address of its own, and the answer comes to its gateway.
func TestHostAsks(t *testing.T) {
	x := newTracer(t)
	if err := x.s.SetForwarding(t.Context(), sharing()); err != nil {
		t.Fatal(err)
	}
	self := hostMAC(addr("198.18.0.1"))
	_, raw := x.trace(t, fmt.Sprintf("in_port=%d,dl_src=%s,dl_dst=ff:ff:ff:ff:ff:ff,arp,arp_op=1,arp_sha=%[2]s,arp_spa=10.6.0.1,arp_tpa=10.6.0.200", portGW, mac(1)))
	for _, want := range []string{"dl_src=" + self, "arp_sha=" + self, "arp_spa=198.18.0.1"} {
		if !strings.Contains(final(raw), want) {
			t.Errorf("the question lacks %s:\n%s", want, raw)
		}
	}
	_, raw = x.trace(t, fmt.Sprintf("tun_id=%d,tun_src=198.18.0.2,tun_dst=198.18.0.1,in_port=%d,dl_src=%s,dl_dst=%s,arp,arp_op=2,arp_sha=%[3]s,arp_spa=10.6.0.200,arp_tpa=198.18.0.1,arp_tha=%[4]s",
		vniA, portT1, mac(4), self))
	for _, want := range []string{"dl_dst=" + mac(1), "arp_tha=" + mac(1), "arp_sha=" + mac(4)} {
		if !strings.Contains(final(raw), want) {
			t.Errorf("the answer lacks %s:\n%s", want, raw)
		}
	}
}

// final is what a trace says the packet is at its end.
func final(raw string) string {
	_, rest, _ := strings.Cut(raw, "Final flow: ")
	return strings.SplitN(rest, "\n", 2)[0]
}

// What a container sends to the gateway for what is behind another one goes there.
func TestRoutes(t *testing.T) {
	x := newTracer(t)
	f := sharing()
	f.Segments[0].Remote[1].Allowed = []netip.Prefix{prefix("10.98.0.0/16")}
	f.Segments[0].Routes = []Route{
		{prefix("10.99.0.0/16"), addr("10.6.0.2")},
		{prefix("10.98.1.0/24"), addr("10.6.0.5")},
		// What leads nowhere, or where it must not.
		{prefix("10.99.0.0/16"), addr("10.6.0.3")},
		{prefix("10.97.0.0/16"), addr("10.6.0.2")},
		{prefix("10.98.0.0/15"), addr("10.6.0.5")},
		{prefix("10.6.0.0/24"), addr("10.6.0.2")},
		{prefix("10.99.1.0/24"), addr("10.6.0.99")},
		{prefix("0.0.0.0/0"), addr("10.6.0.2")},
	}
	if _, dropped := f.sane(); len(dropped) != 6 {
		t.Errorf("dropped %v", dropped)
	}
	if err := x.s.SetForwarding(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	to := func(port, src int, dst string) string {
		return fmt.Sprintf("in_port=%d,dl_src=%s,dl_dst=%s,icmp,nw_src=10.6.0.%d,nw_ttl=64,nw_dst=%s", port, mac(src), mac(1), src, dst)
	}
	for name, c := range map[string]struct {
		flow string
		want []string
		mac  int
	}{
		"behind one here":                  {to(portA2, 3, "10.99.3.4"), []string{"1"}, 2},
		"behind one there":                 {to(portA2, 3, "10.98.1.9"), []string{"6/100"}, 5},
		"beside that":                      {to(portA2, 3, "10.98.2.9"), []string{"4"}, 1},
		"from the router itself":           {to(portA1, 2, "10.99.3.4"), []string{}, 2},
		"where nobody routes":              {to(portA2, 3, "10.97.0.9"), []string{"4"}, 1},
		"in another network":               {to(portB1, 2, "10.99.3.4"), nil, 1},
		"by a tunnel, from another's host": {fmt.Sprintf("tun_id=%d,tun_src=198.18.0.2,tun_dst=198.18.0.1,", vniA) + to(portT1, 4, "10.99.3.4"), nil, 1},
	} {
		got, raw := x.trace(t, c.flow)
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s%s", name, diff, raw)
		}
		if len(got) > 0 && !strings.Contains(final(raw), "dl_dst="+mac(c.mac)) {
			t.Errorf("%s: %s", name, final(raw))
		}
	}
	before := x.i.Run(t, "ovs-ofctl", "-O", "OpenFlow14", "--no-names", "dump-flows", DefaultBridge, "table=4")
	if err := x.s.Resync(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(before, "nw_dst=10.98.1.0/24") {
		t.Errorf("flows:\n%s", before)
	}
}

// What an endpoint cannot be allowed reaches no flow.
func TestHostileAllowances(t *testing.T) {
	want := text(golden())
	for name, p := range map[string]netip.Prefix{
		"the gateway's address":          prefix("10.6.0.1/32"),
		"a prefix with the gateway":      prefix("10.6.0.0/30"),
		"the whole subnet":               prefix("10.6.0.0/16"),
		"more than the subnet":           prefix("10.0.0.0/8"),
		"everything":                     prefix("0.0.0.0/0"),
		"the network address":            prefix("10.6.0.0/32"),
		"the broadcast address":          prefix("10.6.255.255/32"),
		"a prefix with the last address": prefix("10.6.255.0/24"),
		"another one's address here":     prefix("10.6.0.3/32"),
		"a prefix with another's here":   prefix("10.6.0.2/31"),
		"another one's address there":    prefix("10.6.0.5/32"),
		"a prefix with another's there":  prefix("10.6.0.4/30"),
		"its own":                        prefix("10.6.0.2/32"),
		"host bits":                      netip.PrefixFrom(addr("10.6.9.9"), 24),
		"IPv6":                           prefix("fd00::/64"),
		"nothing":                        {},
		"this host's address":            prefix("198.18.0.1/32"),
		"a prefix with a peer's address": prefix("198.18.0.0/24"),
		"loopback":                       prefix("127.0.0.1/32"),
		"the cloud's metadata":           prefix("169.254.169.254/32"),
		"multicast":                      prefix("224.0.0.18/32"),
		"this network":                   prefix("0.0.0.0/32"),
	} {
		local, remote := golden(), golden()
		local.Segments[0].Local[0].Allowed = []netip.Prefix{p}
		remote.Segments[0].Remote[0].Allowed = []netip.Prefix{p}
		for where, f := range map[string]Forwarding{"here": local, "there": remote} {
			if diff := cmp.Diff(want, text(f)); diff != "" {
				t.Errorf("%s, %s (-want +got):\n%s", name, where, diff)
			}
			if _, dropped := f.sane(); len(dropped) != 1 {
				t.Errorf("%s, %s: dropped %v", name, where, dropped)
			}
		}
	}
}
