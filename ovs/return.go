package ovs

import (
	"fmt"
	"net/netip"
	"strings"
)

// host renders the flows between hosts and remote containers. A host speaks to a remote
// container through the tunnel from its VTEP address. It cannot use the gateway address:
// every host has it, so the answer would end at the container's own host. A container
// opens a connection to any host through the gateway of its own host. So its path does
// not depend on which other hosts use the network, and does not change when that changes.
func (r *rendering) host(g Segment, self netip.Addr) {
	if g.GatewayMAC == "" {
		return
	}
	r.add(tableForward, 100, fmt.Sprintf("reg0=%#x,reg1=0,dl_dst=%s", g.VNI, g.GatewayMAC),
		"resubmit(,%d),goto_table:%d", tableReturn, tableHost)
	r.learnReturn(g)
	if g.GatewayPort > 0 && self.Is4() {
		r.add(tableForward, 110, fmt.Sprintf("ip,reg0=%#x,reg1=0x1,dl_dst=%s,nw_dst=%s", g.VNI, g.GatewayMAC, self),
			"output:%d", g.GatewayPort)
	}
}

// peerHosts renders the flows that select packets from peers' hosts and the flows that
// lead to them.
func (r *rendering) peerHosts(peers []Peer) {
	for _, p := range peers {
		if !p.VTEP.Is4() {
			continue
		}
		for _, from := range []string{fmt.Sprintf("in_port=%d", p.OFPort), "reg1=0"} {
			r.add(tablePeer, 100, fmt.Sprintf("ip,%s,nw_src=%s", from, p.VTEP), "goto_table:%d", tableLearn)
		}
		for _, proto := range []string{"tcp", "udp"} {
			// Matching the ports limits the datapath's cached flow to one connection. A
			// wider cached flow would misdirect the first answer of a newly learned
			// connection until the switch revalidates the cache.
			r.add(tableReturn, 100, fmt.Sprintf("%s,nw_dst=%s", proto, p.VTEP),
				"move:NXM_OF_%[1]s_SRC[]->NXM_NX_REG3[0..15],move:NXM_OF_%[1]s_DST[]->NXM_NX_REG3[16..31]", strings.ToUpper(proto))
		}
		// Match the address too: a learned flow may be older than the port.
		r.add(tableHost, 110, fmt.Sprintf("ip,reg2=%#x,nw_dst=%s", p.OFPort, p.VTEP),
			"move:NXM_NX_REG0[]->NXM_NX_TUN_ID[0..31],output:%d", p.OFPort)
	}
}

// returnCookie is the upper half of the cookies of learned flows. The VNI follows, and
// gatewayReturn is set if the answer leaves by the gateway port. The learned flows have
// their own limit, because any container can cause them: its host masquerades it when it
// connects to a published port.
const (
	returnCookie  = Cookie << 32
	gatewayReturn = 1 << 24
)

// returnLimit limits the learned flows with one cookie. Tests lower it.
var returnLimit = 16384

// learnReturn distinguishes the two paths by which a peer's host can speak to an
// endpoint. One leads to the endpoint's own address through the tunnel. The other leads
// to a published port of this host over the underlay; this host's kernel then changes the
// destination and must see the answer to change it back. Both have the VTEP as source, so
// the answers look alike. An answer must leave by the path on which the request came. The
// switch learns the path from the packets. So this needs no agent and recovers by itself
// after a restart of the switch.
func (r *rendering) learnReturn(g Segment) {
	r.add(tablePolicy, 110, fmt.Sprintf("ip,reg0=%#x,reg1=0x1", g.VNI), "resubmit(,%d),goto_table:%d", tablePeer, tableForward)
	tunnel := way{
		match: fmt.Sprintf("reg0=%#x,reg1=0x1", g.VNI), load: "NXM_OF_IN_PORT[]->NXM_NX_REG2[0..15]",
		cookie: returnCookie | uint64(g.VNI),
	}
	r.learnConnections(tunnel, "")
	r.add(tableLearn, 100, "icmp,"+tunnel.match, "%s", // from an endpoint's ICMP, only echo replies
		tunnel.learn(200, "hard_timeout=60", "nw_proto=1,icmp_type=0"))
	r.add(tableLearn, 90, "ip,"+tunnel.match, "%s",
		tunnel.learn(190, "hard_timeout=300", "NXM_OF_IP_PROTO[]"))
	if g.GatewayPort == 0 {
		return
	}
	r.add(tablePolicy, 110, fmt.Sprintf("ip,in_port=%d,reg0=%#x", g.GatewayPort, g.VNI),
		"resubmit(,%d),goto_table:%d", tablePeer, tableForward)
	gateway := way{
		match: fmt.Sprintf("reg0=%#x,reg1=0", g.VNI), load: "0->NXM_NX_REG2[]",
		cookie: tunnel.cookie | gatewayReturn,
	}
	// Packets without a learned flow leave by the gateway port anyway. These flows only
	// replace those of an older connection through the tunnel with the same ports, so
	// learning from the first packet suffices.
	r.learnConnections(gateway, ",tcp_flags=+syn-ack")
}

// way is one of the two paths by which a peer's host speaks to endpoints.
type way struct {
	match  string // matches packets that came this way
	load   string // makes the answer leave this way
	cookie uint64
}

// learnConnections learns the way for answers to packets that came by it. A TCP flow
// lasts longer than the two hours after which a kernel checks whether the peer is alive
// (tcp_keepalive_time).
func (r *rendering) learnConnections(w way, tcpFlags string) {
	const ports = "NXM_OF_%[1]s_SRC[]=NXM_OF_%[1]s_DST[],NXM_OF_%[1]s_DST[]=NXM_OF_%[1]s_SRC[]"
	// ICMP errors (port unreachable) and fragments do not show the switch to which
	// connection they belong. They take the way of the last request between the two
	// addresses. With hard_timeout, unlike idle_timeout, answers do not prolong the flow.
	unreachable := w.learn(200, "hard_timeout=60", "nw_proto=1,icmp_type=3")
	r.add(tableLearn, 100, "tcp"+tcpFlags+","+w.match, "%s,%s",
		w.learn(200, "idle_timeout=10800,fin_idle_timeout=10", "nw_proto=6,"+fmt.Sprintf(ports, "TCP")), unreachable)
	r.add(tableLearn, 100, "udp,"+w.match, "%s,%s,%s",
		w.learn(200, "idle_timeout=300", "nw_proto=17,"+fmt.Sprintf(ports, "UDP")),
		w.learn(200, "hard_timeout=60", "nw_proto=17,udp_src=0,udp_dst=0"), // fragments have ports 0
		unreachable)
	r.add(tableLearn, 110, "udp,udp_src=0,udp_dst=0,"+w.match, "%s", w.learn(190, "hard_timeout=60", "nw_proto=17"))
}

// learn returns the action that learns w for packets in the opposite direction between
// the same two addresses that satisfy match.
func (w way) learn(priority int, lasts, match string) string {
	return fmt.Sprintf("learn(table=%d,priority=%d,cookie=%#x,limit=%d,delete_learned,%s,eth_type=0x800,NXM_NX_REG0[],"+
		"NXM_OF_IP_SRC[]=NXM_OF_IP_DST[],NXM_OF_IP_DST[]=NXM_OF_IP_SRC[],%s,load:%s)",
		tableReturn, priority, w.cookie, returnLimit, lasts, match, w.load)
}
