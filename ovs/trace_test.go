package ovs

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/socketplane/socketplane/ovs/ovstest"
)

// The ports of the switch that packets are traced through: networks A and B
// with the same addresses, A with a second endpoint here, a gateway, and one
// endpoint on each of two peers; a third peer has none.
const (
	portA1, portA2, portB1, portGW = 1, 2, 3, 4
	portT1, portT2, portT3         = 5, 6, 7
	vniA, vniB                     = 100, 200
)

type tracer struct {
	i *ovstest.Instance
	s *Switch
}

func newTracer(t *testing.T) tracer {
	t.Helper()
	s, i := open(t)
	for n, p := range []Port{
		{Name: "a1", Kind: KindEndpoint, VLAN: 7},
		{Name: "a2", Kind: KindEndpoint, VLAN: 7},
		{Name: "b1", Kind: KindEndpoint, VLAN: 8},
		{Name: "gwa", Kind: KindGateway, VLAN: 7, MAC: mac(1), MTU: 1450},
	} {
		if p.Kind == KindEndpoint {
			i.AddVeth(t, p.Name)
		}
		if got, err := s.AddPort(t.Context(), p); err != nil || got != n+1 {
			t.Fatalf("port %s is %d: %v", p.Name, got, err)
		}
	}
	for n := range 3 { // one after the other, for the order of their numbers
		var tunnels []Tunnel
		for m := range n + 1 {
			tunnels = append(tunnels, Tunnel{Peer: fmt.Sprint(m), Remote: addr(fmt.Sprintf("198.18.0.%d", 2+m)), Local: addr("198.18.0.1")})
		}
		if got, err := s.SetTunnels(t.Context(), tunnels); err != nil || got[fmt.Sprint(n)] != portT1+n {
			t.Fatalf("tunnels are %v: %v", got, err)
		}
	}
	if err := s.SetForwarding(t.Context(), traced()); err != nil {
		t.Fatal(err)
	}
	return tracer{i: i, s: s}
}

func traced() Forwarding {
	return Forwarding{
		Self: addr("198.18.0.1"),
		Peers: []Peer{
			{ID: "0", VTEP: addr("198.18.0.2"), OFPort: portT1}, {ID: "1", VTEP: addr("198.18.0.3"), OFPort: portT2}, {ID: "2", VTEP: addr("198.18.0.4"), OFPort: portT3},
		},
		Segments: []Segment{
			{
				VNI: vniA, Subnet: prefix("10.6.0.0/16"), Gateway: addr("10.6.0.1"), GatewayMAC: mac(1), GatewayPort: portGW,
				Local:  []Local{{OFPort: portA1, MAC: mac(2), IP: addr("10.6.0.2")}, {OFPort: portA2, MAC: mac(3), IP: addr("10.6.0.3")}},
				Remote: []Remote{{MAC: mac(4), IP: addr("10.6.0.4"), OFPort: portT1}, {MAC: mac(5), IP: addr("10.6.0.5"), OFPort: portT2}},
			},
			{
				VNI: vniB, Subnet: prefix("10.6.0.0/16"), Gateway: addr("10.6.0.1"), GatewayMAC: mac(1),
				Local:  []Local{{OFPort: portB1, MAC: mac(2), IP: addr("10.6.0.2")}},
				Remote: []Remote{{MAC: mac(6), IP: addr("10.6.0.6"), OFPort: portT1}},
			},
		},
	}
}

var (
	traceOutput = regexp.MustCompile(`^\s*(output:\d+|IN_PORT|set_field:0x[0-9a-f]+->tun_id|-> NXM_NX_TUN_ID\[0\.\.31\] is now 0x[0-9a-f]+)$`)
	traceVNI    = regexp.MustCompile(`0x[0-9a-f]+`)
	traceSkip   = regexp.MustCompile(`^\s*>+ skipping output to input port`)
)

// trace says what the switch would do with a packet: where it goes, with the
// VNI where it leaves by a tunnel.
func (x tracer) trace(t *testing.T, flow string) (out []string, raw string) {
	t.Helper()
	raw = x.i.Run(t, "ovs-appctl", "ofproto/trace", DefaultBridge, flow)
	vni := ""
	for line := range strings.Lines(raw) {
		line = strings.TrimRight(line, "\n")
		if traceSkip.MatchString(line) {
			out = out[:len(out)-1]
			continue
		}
		m := traceOutput.FindStringSubmatch(line)
		switch {
		case m == nil:
		case traceVNI.MatchString(m[1]):
			n, err := strconv.ParseUint(traceVNI.FindString(m[1]), 0, 32)
			if err != nil {
				t.Fatal(err)
			}
			vni = fmt.Sprintf("/%d", n)
		default:
			out = append(out, strings.TrimPrefix(m[1], "output:")+vni)
		}
	}
	return out, raw
}

func TestPackets(t *testing.T) {
	x := newTracer(t)
	from := func(port, src, dst int, rest string) string {
		d := "ff:ff:ff:ff:ff:ff"
		if dst > 0 {
			d = mac(dst)
		}
		return fmt.Sprintf("in_port=%d,dl_src=%s,dl_dst=%s,", port, mac(src), d) + rest
	}
	tunnel := func(port, vni, src, dst int, rest string) string {
		return fmt.Sprintf("tun_id=%d,tun_src=198.18.0.9,tun_dst=198.18.0.1,", vni) + from(port, src, dst, rest)
	}
	arp := func(port, sha int, spa string, tpa string) string {
		return from(port, sha, 0, fmt.Sprintf("arp,arp_op=1,arp_sha=%s,arp_spa=%s,arp_tpa=%s", mac(sha), spa, tpa))
	}
	ip := func(src, dst string) string { return fmt.Sprintf("icmp,nw_src=%s,nw_dst=%s", src, dst) }
	for name, c := range map[string]struct {
		flow string
		want []string
	}{
		"to an endpoint here":                {from(portA1, 2, 3, ip("10.6.0.2", "10.6.0.3")), []string{"2"}},
		"to an endpoint there":               {from(portA1, 2, 4, ip("10.6.0.2", "10.6.0.4")), []string{"5/100"}},
		"in the other network":               {from(portB1, 2, 6, ip("10.6.0.2", "10.6.0.6")), []string{"5/200"}},
		"to the other network's endpoint":    {from(portA1, 2, 6, ip("10.6.0.2", "10.6.0.6")), nil},
		"to the other network's, from there": {from(portB1, 2, 3, ip("10.6.0.2", "10.6.0.3")), nil},
		"to nobody":                          {from(portA1, 2, 99, ip("10.6.0.2", "10.6.0.99")), nil},
		"with another's MAC":                 {from(portA1, 3, 4, ip("10.6.0.2", "10.6.0.4")), nil},
		"with another's address":             {from(portA1, 2, 4, ip("10.6.0.3", "10.6.0.4")), nil},
		"with no address (DHCP)":             {from(portA1, 2, 0, "udp,nw_src=0.0.0.0,nw_dst=255.255.255.255,udp_src=68,udp_dst=67"), nil},
		"with the gateway's MAC":             {from(portA1, 1, 4, ip("10.6.0.2", "10.6.0.4")), nil},
		"with an 802.1Q tag":                 {from(portA1, 2, 3, "dl_vlan=7,"+ip("10.6.0.2", "10.6.0.3")), nil},
		"of IPv6":                            {from(portA1, 2, 3, "icmp6,ipv6_src=fe80::2,ipv6_dst=fe80::3"), nil},
		"of neighbour discovery":             {from(portA1, 2, 0, "icmp6,ipv6_src=fe80::2,ipv6_dst=ff02::1,icmpv6_type=135,icmpv6_code=0"), nil},
		"of LLDP":                            {from(portA1, 2, 3, "dl_type=0x88cc"), nil},
		"ARP for one here":                   {arp(portA1, 2, "10.6.0.2", "10.6.0.3"), []string{"IN_PORT"}},
		"ARP for one there":                  {arp(portA1, 2, "10.6.0.2", "10.6.0.5"), []string{"IN_PORT"}},
		"ARP for the gateway":                {arp(portA1, 2, "10.6.0.2", "10.6.0.1"), []string{"IN_PORT"}},
		"ARP for a gateway that is not":      {arp(portB1, 2, "10.6.0.2", "10.6.0.1"), nil},
		"ARP for its own address":            {arp(portA1, 2, "10.6.0.2", "10.6.0.2"), nil},
		"ARP for nobody":                     {arp(portA1, 2, "10.6.0.2", "10.6.9.9"), nil},
		"ARP for the other network's":        {arp(portA1, 2, "10.6.0.2", "10.6.0.6"), nil},
		"ARP that lies about its address":    {arp(portA1, 2, "10.6.0.3", "10.6.0.4"), nil},
		"ARP that lies about its MAC":        {from(portA1, 2, 0, "arp,arp_op=1,arp_spa=10.6.0.2,arp_tpa=10.6.0.4,arp_sha="+mac(3)), nil},
		"an ARP reply":                       {from(portA1, 2, 3, "arp,arp_op=2,arp_spa=10.6.0.2,arp_tpa=10.6.0.3,arp_sha="+mac(2)), nil},
		"broadcast":                          {from(portA1, 2, 0, ip("10.6.0.2", "10.6.255.255")), []string{"2", "5/100", "6/100"}},
		"multicast":                          {"in_port=1,dl_src=" + mac(2) + ",dl_dst=01:00:5e:00:00:fb," + ip("10.6.0.2", "224.0.0.251"), []string{"2", "5/100", "6/100"}},
		"broadcast in the other network":     {from(portB1, 2, 0, ip("10.6.0.2", "10.6.255.255")), []string{"5/200"}},
		"broadcast from the tunnel":          {tunnel(portT1, vniA, 4, 0, ip("10.6.0.4", "10.6.255.255")), []string{"1", "2"}},
		"broadcast from the tunnel, other":   {tunnel(portT1, vniB, 6, 0, ip("10.6.0.6", "10.6.255.255")), []string{"3"}},
		"from the tunnel":                    {tunnel(portT1, vniA, 4, 2, ip("10.6.0.4", "10.6.0.2")), []string{"1"}},
		"from the tunnel, other network":     {tunnel(portT1, vniB, 6, 2, ip("10.6.0.6", "10.6.0.2")), []string{"3"}},
		"from the tunnel to another tunnel":  {tunnel(portT1, vniA, 4, 5, ip("10.6.0.4", "10.6.0.5")), nil},
		"from the tunnel, of no network":     {tunnel(portT1, 300, 4, 2, ip("10.6.0.4", "10.6.0.2")), nil},
		"from the tunnel, broadcast of none": {tunnel(portT1, 300, 4, 0, ip("10.6.0.4", "10.6.255.255")), nil},
		"from the tunnel, tagged":            {tunnel(portT1, vniA, 4, 2, "dl_vlan=7,"+ip("10.6.0.4", "10.6.0.2")), nil},
		"ARP from the tunnel for one here":   {tunnel(portT1, vniA, 4, 3, "arp,arp_op=1,arp_tpa=10.6.0.3"), nil},
		"to the world":                       {from(portA1, 2, 1, ip("10.6.0.2", "203.0.113.1")), []string{"4"}},
		"to the world without a gateway":     {from(portB1, 2, 1, ip("10.6.0.2", "203.0.113.1")), nil},
		"to the cloud's metadata":            {from(portA1, 2, 1, ip("10.6.0.2", "169.254.169.254")), nil},
		"to Azure's":                         {from(portA1, 2, 1, "tcp,nw_src=10.6.0.2,nw_dst=168.63.129.16,tcp_dst=80"), nil},
		"to Azure's name server":             {from(portA1, 2, 1, "udp,nw_src=10.6.0.2,nw_dst=168.63.129.16,udp_dst=53"), []string{"4"}},
		"to Azure's name server, over TCP":   {from(portA1, 2, 1, "tcp,nw_src=10.6.0.2,nw_dst=168.63.129.16,tcp_dst=53"), []string{"4"}},
		"to Alibaba's":                       {from(portA1, 2, 1, "tcp,nw_src=10.6.0.2,nw_dst=100.100.100.200,tcp_dst=80"), nil},
		"to Oracle's":                        {from(portA1, 2, 1, "tcp,nw_src=10.6.0.2,nw_dst=192.0.0.192,tcp_dst=80"), nil},
		"to this host":                       {from(portA1, 2, 1, ip("10.6.0.2", "198.18.0.1")), []string{"4"}},
		"to a peer that has the network":     {from(portA1, 2, 1, ip("10.6.0.2", "198.18.0.2")), []string{"4"}},
		"to a peer that has it not":          {from(portA1, 2, 1, ip("10.6.0.2", "198.18.0.4")), []string{"4"}},
		"from the gateway":                   {from(portGW, 1, 2, ip("203.0.113.1", "10.6.0.2")), []string{"1"}},
		"from the gateway to one there":      {from(portGW, 1, 4, ip("198.18.0.1", "10.6.0.4")), []string{"5/100"}},
		"from the gateway with another MAC":  {from(portGW, 9, 2, ip("203.0.113.1", "10.6.0.2")), nil},
		"ARP of the gateway":                 {arp(portGW, 1, "198.18.0.1", "10.6.0.4"), []string{"IN_PORT"}},
		"ARP of the gateway for itself":      {arp(portGW, 1, "10.6.0.1", "10.6.0.1"), nil},
		"from the tunnel to this host":       {tunnel(portT1, vniA, 4, 1, ip("10.6.0.4", "198.18.0.1")), []string{"4"}},
		"from the tunnel to the world":       {tunnel(portT1, vniA, 4, 1, ip("10.6.0.4", "203.0.113.1")), nil},
		"from the tunnel to the gateway":     {tunnel(portT1, vniA, 4, 1, ip("10.6.0.4", "10.6.0.1")), nil},
		"from the bridge's own port":         {fmt.Sprintf("in_port=LOCAL,dl_src=%s,dl_dst=%s,%s", mac(2), mac(3), ip("10.6.0.2", "10.6.0.3")), nil},
		"broadcast from the gateway":         {from(portGW, 1, 0, ip("10.6.0.1", "10.6.255.255")), []string{"1", "2", "5/100", "6/100"}},
	} {
		got, raw := x.trace(t, c.flow)
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s%s", name, diff, raw)
		}
	}
}

func TestARPAnswer(t *testing.T) {
	x := newTracer(t)
	_, raw := x.trace(t, fmt.Sprintf("in_port=%d,dl_src=%s,dl_dst=ff:ff:ff:ff:ff:ff,arp,arp_op=1,arp_sha=%[2]s,arp_spa=10.6.0.2,arp_tpa=10.6.0.4", portA1, mac(2)))
	_, final, _ := strings.Cut(raw, "Final flow: ")
	fields := strings.Split(strings.TrimSpace(strings.SplitN(final, "\n", 2)[0]), ",")
	for _, want := range []string{
		"dl_src=" + mac(4), "dl_dst=" + mac(2), "arp_op=2",
		"arp_sha=" + mac(4), "arp_spa=10.6.0.4", "arp_tha=" + mac(2), "arp_tpa=10.6.0.2",
	} {
		if !slices.Contains(fields, want) {
			t.Errorf("the answer lacks %s: %v", want, fields)
		}
	}
}
