package ovs

import (
	"fmt"
	"net/netip"
	"strings"
)

// host renders what lets hosts and remote containers speak to each other. A host
// speaks to a remote container through the tunnel, from its VTEP address: the
// gateway's is every host's, and an answer to that would end at the container's
// own host. A container that begins a connection to a host, any host, does so by
// its own host's gateway. So its way does not depend on where else the network is
// in use, and stays when that changes.
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

// peerHosts renders what picks the packets of peers' hosts, and what leads to them.
func (r *rendering) peerHosts(peers []Peer) {
	for _, p := range peers {
		if !p.VTEP.Is4() {
			continue
		}
		for _, from := range []string{fmt.Sprintf("in_port=%d", p.OFPort), "reg1=0"} {
			r.add(tablePeer, 100, fmt.Sprintf("ip,%s,nw_src=%s", from, p.VTEP), "goto_table:%d", tableLearn)
		}
		for _, proto := range []string{"tcp", "udp"} {
			// Reading the ports makes the datapath's cached flow one of a single
			// connection. A wider one would lead the first answer of a connection that
			// has just been learned astray, until the cache is validated.
			r.add(tableReturn, 100, fmt.Sprintf("%s,nw_dst=%s", proto, p.VTEP),
				"move:NXM_OF_%[1]s_SRC[]->NXM_NX_REG3[0..15],move:NXM_OF_%[1]s_DST[]->NXM_NX_REG3[16..31]", strings.ToUpper(proto))
		}
		// With the address: what was learned may be older than the port.
		r.add(tableHost, 110, fmt.Sprintf("ip,reg2=%#x,nw_dst=%s", p.OFPort, p.VTEP),
			"move:NXM_NX_REG0[]->NXM_NX_TUN_ID[0..31],output:%d", p.OFPort)
	}
}

// returnCookie begins the cookies of what the switch learns; the VNI follows, and
// gatewayReturn where the answer leaves by the gateway port. Those flows count
// towards a limit of their own, since any container can have them learned: it is
// masqueraded as its host when it reaches a published port.
const (
	returnCookie  = Cookie << 32
	gatewayReturn = 1 << 24
)

// returnLimit bounds what the switch remembers under one cookie. Tests lower it.
var returnLimit = 16384

// learnReturn keeps apart the two ways by which a peer's host can speak to an
// endpoint: to its own address, through the tunnel; or to a port that this host
// publishes, over the underlay, where this host's kernel has changed the
// destination and must see the answer to change it back. Both have the VTEP as
// source, so the answers look alike. An answer leaves by the way that the question
// came. The switch learns that from the packets, so it needs no agent and mends
// itself when the switch was restarted.
func (r *rendering) learnReturn(g Segment) {
	r.add(tablePolicy, 110, fmt.Sprintf("ip,reg0=%#x,reg1=0x1", g.VNI), "resubmit(,%d),goto_table:%d", tablePeer, tableForward)
	tunnel := way{
		match: fmt.Sprintf("reg0=%#x,reg1=0x1", g.VNI), load: "NXM_OF_IN_PORT[]->NXM_NX_REG2[0..15]",
		cookie: returnCookie | uint64(g.VNI),
	}
	r.learnConnections(tunnel, "")
	r.add(tableLearn, 100, "icmp,"+tunnel.match, "%s", // of an endpoint's ICMP only the answers
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
	// What is not learned leaves by the gateway port anyway. These only replace what
	// is left of a connection through the tunnel between the same ports, so the first
	// packet is enough.
	r.learnConnections(gateway, ",tcp_flags=+syn-ack")
}

// way is one of the two by which a peer's host speaks to endpoints.
type way struct {
	match  string // what came by it
	load   string // has the answer leave by it
	cookie uint64
}

// learnConnections remembers a way for the answers to what came by it. Over TCP
// that lasts longer than the two hours after which a kernel asks whether the other
// end lives (tcp_keepalive_time).
func (r *rendering) learnConnections(w way, tcpFlags string) {
	const ports = "NXM_OF_%[1]s_SRC[]=NXM_OF_%[1]s_DST[],NXM_OF_%[1]s_DST[]=NXM_OF_%[1]s_SRC[]"
	// Errors (port unreachable) and fragments do not say, where the switch can see
	// it, to which connection they belong. They go as the last question between the
	// two addresses came. Answers do not prolong that, unlike idle_timeout.
	unreachable := w.learn(200, "hard_timeout=60", "nw_proto=1,icmp_type=3")
	r.add(tableLearn, 100, "tcp"+tcpFlags+","+w.match, "%s,%s",
		w.learn(200, "idle_timeout=10800,fin_idle_timeout=10", "nw_proto=6,"+fmt.Sprintf(ports, "TCP")), unreachable)
	r.add(tableLearn, 100, "udp,"+w.match, "%s,%s,%s",
		w.learn(200, "idle_timeout=300", "nw_proto=17,"+fmt.Sprintf(ports, "UDP")),
		w.learn(200, "hard_timeout=60", "nw_proto=17,udp_src=0,udp_dst=0"), // the ports of fragments read as 0
		unreachable)
	r.add(tableLearn, 110, "udp,udp_src=0,udp_dst=0,"+w.match, "%s", w.learn(190, "hard_timeout=60", "nw_proto=17"))
}

// learn is the action that has the switch remember w for packets between the same
// two addresses, the other way round, that match what is asked.
func (w way) learn(priority int, lasts, match string) string {
	return fmt.Sprintf("learn(table=%d,priority=%d,cookie=%#x,limit=%d,delete_learned,%s,eth_type=0x800,NXM_NX_REG0[],"+
		"NXM_OF_IP_SRC[]=NXM_OF_IP_DST[],NXM_OF_IP_DST[]=NXM_OF_IP_SRC[],%s,load:%s)",
		tableReturn, priority, w.cookie, returnLimit, lasts, match, w.load)
}
