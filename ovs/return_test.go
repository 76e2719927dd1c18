package ovs

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// hostTalk is what endpoint A1 and the host of the first peer say to each other.
type hostTalk struct{ x tracer }

// question is a packet of the peer's host, through the tunnel or by the gateway port.
func (hostTalk) question(tunnel bool, rest string) string {
	in := fmt.Sprintf("in_port=%d", portGW)
	if tunnel {
		in = fmt.Sprintf("tun_id=%d,tun_src=198.18.0.2,tun_dst=198.18.0.1,in_port=%d", vniA, portT1)
	}
	return fmt.Sprintf("%s,dl_src=%s,dl_dst=%s,%s,nw_src=198.18.0.2,nw_dst=10.6.0.2", in, mac(1), mac(2), rest)
}

// says is a packet to the peer's host.
func (hostTalk) says(rest string) string {
	return fmt.Sprintf("in_port=%d,dl_src=%s,dl_dst=%s,%s,nw_src=10.6.0.2,nw_dst=198.18.0.2", portA1, mac(2), mac(1), rest)
}

// asks really sends a question: only then the switch learns.
func (h hostTalk) asks(t *testing.T, tunnel bool, rest string) {
	t.Helper()
	raw := h.x.i.Run(t, "ovs-appctl", "ofproto/trace", DefaultBridge, h.question(tunnel, rest), "-generate")
	if !strings.Contains(raw, fmt.Sprintf("output:%d", portA1)) {
		t.Fatalf("%s does not arrive:\n%s", rest, raw)
	}
}

func (h hostTalk) goes(t *testing.T, when, rest, want string) {
	t.Helper()
	got, raw := h.x.trace(t, h.says(rest))
	if diff := cmp.Diff([]string{want}, got); diff != "" {
		t.Errorf("%s: %s (-want +got):\n%s%s", when, rest, diff, raw)
	}
}

func (h hostTalk) learned(t *testing.T) (n int) {
	t.Helper()
	for line := range strings.Lines(h.x.i.Run(t, "ovs-ofctl", "-O", "OpenFlow14", "dump-flows", h.x.s.controlTarget(), fmt.Sprintf("table=%d", tableReturn))) {
		if strings.Contains(line, "cookie=0x") && !strings.Contains(line, fmt.Sprintf("cookie=%#x,", Cookie)) {
			n++
		}
	}
	return n
}

var (
	byGateway = fmt.Sprint(portGW)
	byTunnel  = fmt.Sprintf("%d/%d", portT1, vniA)
)

// TestReturn: an answer to a peer's host leaves by the way that the question came;
// what an endpoint begins itself leaves by the gateway port.
func TestReturn(t *testing.T) {
	h := hostTalk{x: newTracer(t)}
	ports := func(proto string, src, dst int) string {
		return fmt.Sprintf("%[1]s,%[1]s_src=%[2]d,%[1]s_dst=%[3]d", proto, src, dst)
	}
	for _, proto := range []string{"tcp", "udp"} {
		question, answer := ports(proto, 4000, 80), ports(proto, 80, 4000)
		if proto == "tcp" {
			question += ",tcp_flags=0x002"
		}
		h.goes(t, "begun by the endpoint", answer, byGateway)
		h.asks(t, true, question)
		h.goes(t, "asked through the tunnel", answer, byTunnel)
		h.goes(t, "another connection", ports(proto, 80, 4001), byGateway)
		h.goes(t, "another connection", ports(proto, 81, 4000), byGateway)
		h.goes(t, "an error", "icmp,icmp_type=3,icmp_code=3", byTunnel)
		h.asks(t, false, question)
		h.goes(t, "asked by the gateway port, from the same port", answer, byGateway)
		h.goes(t, "an error", "icmp,icmp_type=3,icmp_code=3", byGateway)
		h.asks(t, true, question)
		h.goes(t, "asked through the tunnel again", answer, byTunnel)
	}
	h.asks(t, true, "tcp,tcp_src=4002,tcp_dst=80,tcp_flags=0x010")
	h.goes(t, "a connection that the switch has forgotten", ports("tcp", 80, 4002), byTunnel)

	h.goes(t, "a ping that nobody asked for", "icmp,icmp_type=0", byGateway)
	h.asks(t, true, "icmp,icmp_type=8")
	h.goes(t, "an answered ping", "icmp,icmp_type=0", byTunnel)
	h.goes(t, "the endpoint's own ping", "icmp,icmp_type=8", byGateway)
	h.goes(t, "another protocol", "ip,nw_proto=132", byGateway)
	h.asks(t, true, "ip,nw_proto=132")
	h.goes(t, "another protocol, asked", "ip,nw_proto=132", byTunnel)
	h.goes(t, "yet another protocol", "ip,nw_proto=47", byGateway)
}

// TestReturnFragments: the switch does not see the ports of fragments.
func TestReturnFragments(t *testing.T) {
	h := hostTalk{x: newTracer(t)}
	first, later, whole := "udp,nw_frag=first", "udp,nw_frag=later", "udp,udp_src=53,udp_dst=4000"
	for _, c := range []struct {
		tunnel   bool
		question string
		want     string
	}{
		{true, "udp,udp_src=4000,udp_dst=53", byTunnel},
		{false, "udp,udp_src=4000,udp_dst=53", byGateway},
		{true, "udp,udp_src=4000,udp_dst=53", byTunnel},
	} {
		h.asks(t, c.tunnel, c.question)
		for _, answer := range []string{first, later} {
			h.goes(t, "a long answer", answer, c.want)
		}
	}
	h.asks(t, true, first)
	h.goes(t, "a short answer to a long question", "udp,udp_src=54,udp_dst=4001", byTunnel)
	h.asks(t, false, first)
	h.goes(t, "a short answer to a long question", "udp,udp_src=54,udp_dst=4001", byGateway)
	h.goes(t, "a short answer to a short question", whole, byTunnel)
}

// TestReturnLimit: who reaches a published port from more ports than the switch
// remembers, as any container of another host can, keeps nobody from an answer: what is
// not remembered leaves by the gateway port anyway, and what came through the tunnel
// counts by itself.
func TestReturnLimit(t *testing.T) {
	was := returnLimit
	returnLimit = 8
	t.Cleanup(func() { returnLimit = was })
	h := hostTalk{x: newTracer(t)}
	for port := range 3 * returnLimit {
		h.asks(t, false, fmt.Sprintf("udp,udp_src=%d,udp_dst=53", 5000+port))
	}
	if n := h.learned(t); n != returnLimit {
		t.Errorf("%d flows are remembered, want %d", n, returnLimit)
	}
	h.asks(t, false, "udp,udp_src=7000,udp_dst=53")
	h.goes(t, "asked by the gateway port, and not remembered", "udp,udp_src=53,udp_dst=7000", byGateway)
	h.asks(t, false, "tcp,tcp_src=7000,tcp_dst=80,tcp_flags=0x002")
	h.goes(t, "asked by the gateway port, over TCP", "tcp,tcp_src=80,tcp_dst=7000", byGateway)
	h.asks(t, true, "udp,udp_src=7001,udp_dst=53")
	h.goes(t, "asked through the tunnel", "udp,udp_src=53,udp_dst=7001", byTunnel)
}

// TestReturnStays: neither a peer that joins the network or leaves it, nor a
// comparison with what the switch really has, changes the way of a connection.
func TestReturnStays(t *testing.T) {
	h := hostTalk{x: newTracer(t)}
	const asked, began = "tcp,tcp_src=80,tcp_dst=4000", "tcp,tcp_src=4000,tcp_dst=80"
	h.asks(t, true, "tcp,tcp_src=4000,tcp_dst=80,tcp_flags=0x002")
	set := func(when string, f Forwarding) {
		t.Helper()
		for _, apply := range []func() error{
			func() error { return h.x.s.SetForwarding(t.Context(), f) },
			func() error { return h.x.s.Resync(t.Context(), f) },
		} {
			if err := apply(); err != nil {
				t.Fatal(when, err)
			}
			h.goes(t, when, asked, byTunnel)
			h.goes(t, when, began, byGateway)
			h.goes(t, when, "udp,udp_src=4000,udp_dst=53", byGateway)
		}
	}
	without := traced()
	without.Segments[0].Remote = nil
	more := traced()
	more.Segments[0].Remote = append(more.Segments[0].Remote, Remote{MAC: mac(7), IP: addr("10.6.0.7"), OFPort: portT2})
	for range 2 {
		set("nobody of the network is elsewhere", without)
		set("a peer has joined", traced())
		set("another has joined", more)
	}
	// The datapath's cached flow of the one must not carry the other.
	if _, raw := h.x.trace(t, h.says(began)); !strings.Contains(raw, "tp_src=4000,tp_dst=80") {
		t.Errorf("the cached flow is not one of a single connection:\n%s", raw)
	}
	// Without a gateway port answers still leave through the tunnel.
	none := traced()
	none.Segments[0].GatewayPort = 0
	if err := h.x.s.SetForwarding(t.Context(), none); err != nil {
		t.Fatal(err)
	}
	h.goes(t, "without a gateway", asked, byTunnel)
	if n := h.learned(t); n != 2 {
		t.Errorf("%d flows are remembered, want the connection's and that of its errors", n)
	}
	// What was learned leads nowhere without the tunnel.
	gone := traced()
	gone.Peers = gone.Peers[1:]
	if err := h.x.s.SetForwarding(t.Context(), gone); err != nil {
		t.Fatal(err)
	}
	h.goes(t, "without the tunnel", asked, byGateway)
	// All of it ends with the network.
	gone.Segments = gone.Segments[1:]
	if err := h.x.s.SetForwarding(t.Context(), gone); err != nil {
		t.Fatal(err)
	}
	if n := h.learned(t); n != 0 {
		t.Errorf("%d flows are remembered without the network", n)
	}
}
