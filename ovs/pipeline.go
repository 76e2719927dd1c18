package ovs

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/socketplane/socketplane/agent/metadata"
)

// The tables of the pipeline. Register 0 holds the VNI. Register 1 is 1 for packets from
// a tunnel. Register 2 is the tunnel port for packets to a peer's host, or 0 for the
// gateway port. The pipeline never uses MAC learning or NORMAL. Every table drops packets
// that match no flow.
const (
	tableClassify  = 0
	tableGuard     = 1
	tableAnswer    = 2
	tablePolicy    = 3
	tableForward   = 4
	tableBroadcast = 5
	tableNeighbour = 6  // second half of the neighbour discovery reply; IPv4 networks leave it empty
	tableReturn    = 7  // answers to connections that peers' hosts opened; the switch fills it, see learnReturn
	tablePeer      = 8  // selects packets from peers' hosts
	tableLearn     = 9  // makes the switch learn them into table 7
	tableHost      = 10 // packets to this host, the outside and peers' hosts
	tableTeach     = 13 // ARP from a tunnel: accepted only if it agrees with its host's list of endpoints
	tableAsk       = 14 // ARP requests for allowed addresses beside an endpoint's own
	tableCanary    = 63
)

// untagged matches frames without an 802.1Q header (OFPVID_NONE in OpenFlow).
const untagged = "vlan_tci=0x0000/0x1fff"

// Flows renders f, local parts first. Equal states result in equal flows in equal order,
// whatever the order of their parts. Flows omits the parts of f that sane drops.
func (f Forwarding) Flows() []Flow {
	flows, _ := f.render()
	return flows
}

// render also names the parts that sane dropped.
func (f Forwarding) render() ([]Flow, []string) {
	f, dropped := f.sane()
	var r rendering
	for t := tableClassify; t <= tableAsk; t++ {
		r.add(t, 0, "", "drop")
	}
	r.add(tableCanary, 0, "", "drop")
	r.add(tablePolicy, 130, "arp,reg1=0x1", "goto_table:%d", tableTeach)
	r.add(tableForward, 200, "dl_dst=01:00:00:00:00:00/01:00:00:00:00:00", "goto_table:%d", tableBroadcast)
	for _, g := range f.Segments {
		r.local(g)
	}
	for _, p := range f.Peers {
		// The packet must be addressed to the VTEP of this host. A container's datagram,
		// masqueraded by its own host, can arrive at another address of this host.
		to := ""
		if f.Self.Is4() {
			to = fmt.Sprintf("tun_dst=%s,", f.Self)
		}
		r.add(tableClassify, 100, fmt.Sprintf("in_port=%d,%s%s", p.OFPort, to, untagged),
			"move:NXM_NX_TUN_ID[0..31]->NXM_NX_REG0[],set_field:1->reg1,goto_table:%d", tablePolicy)
	}
	r.peerHosts(f.Peers)
	r.probes(f.Probe, f.Self)
	r.sharedPeers(f)
	for _, g := range f.Segments {
		r.broadcast(g)
		r.host(g, f.Self)
		r.remote(g)
		r.shared(g, f.Self)
		r.route(g)
	}
	return r.flows, dropped
}

// tunnels returns the sorted tunnel ports to hosts with an endpoint on the segment.
func (g Segment) tunnels() []int {
	set := map[int]bool{}
	for _, r := range g.Remote {
		if r.OFPort > 0 {
			set[r.OFPort] = true
		}
	}
	return slices.Sorted(maps.Keys(set))
}

type rendering struct{ flows []Flow }

func (r *rendering) add(table, priority int, match, actions string, args ...any) {
	r.flows = append(r.flows, Flow{Table: table, Priority: priority, Match: match, Actions: fmt.Sprintf(actions, args...)})
}

// local renders the flows for traffic between the endpoints and the gateway of this host.
func (r *rendering) local(g Segment) {
	r.add(tablePolicy, 100, fmt.Sprintf("reg0=%#x", g.VNI), "goto_table:%d", tableForward)
	r.noMetadata(g)
	for _, l := range g.Local {
		r.classify(g, l.OFPort)
		// A port may send only from its own addresses. No flow accepts IPv6, so the table
		// drops it.
		own := fmt.Sprintf("in_port=%d,dl_src=%s,%s", l.OFPort, l.MAC, untagged)
		r.add(tableGuard, 100, fmt.Sprintf("%s,arp,arp_spa=%s,arp_sha=%s", own, l.IP, l.MAC), "goto_table:%d", tableAnswer)
		r.add(tableGuard, 100, fmt.Sprintf("%s,ip,nw_src=%s", own, l.IP), "goto_table:%d", tablePolicy)
		r.guardAllowed(g, l)
		r.countDrops(l)
		// A reply for the endpoint's own address would report a duplicate address (RFC
		// 5227).
		r.add(tableAnswer, 110, fmt.Sprintf("arp,in_port=%d,arp_tpa=%s", l.OFPort, l.IP), "drop")
		r.answer(g, l.IP, l.MAC)
		r.add(tableForward, 100, fmt.Sprintf("reg0=%#x,dl_dst=%s", g.VNI, l.MAC), "output:%d", l.OFPort)
	}
	if g.GatewayPort > 0 {
		r.gateway(g)
	}
	r.asked(g)
}

// noMetadata drops packets from a network to the metadata services of clouds, which
// return the data that the machine was created with. The packet filter drops them too,
// but somebody may flush it. It skips a service whose addresses overlap the network's
// subnet, because those belong to endpoints.
func (r *rendering) noMetadata(g Segment) {
	if g.Metadata {
		return
	}
	for _, s := range metadata.Services {
		if g.Subnet.Overlaps(s.Addrs) {
			continue
		}
		to := fmt.Sprintf("reg0=%#x,nw_dst=%s", g.VNI, short(s.Addrs))
		r.add(tablePolicy, 120, "ip,"+to, "drop")
		if s.DNS {
			for _, proto := range []string{"udp", "tcp"} {
				r.add(tablePolicy, 125, fmt.Sprintf("%[1]s,%[2]s,%[1]s_dst=53", proto, to), "goto_table:%d", tableForward)
			}
		}
	}
}

// short formats a prefix as ovs-ofctl prints it.
func short(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

// gateway renders the flows of this host's gateway. It sends on behalf of the outside, so
// the guard does not check its source IP addresses.
func (r *rendering) gateway(g Segment) {
	r.classify(g, g.GatewayPort)
	own := fmt.Sprintf("in_port=%d,dl_src=%s,%s", g.GatewayPort, g.GatewayMAC, untagged)
	r.add(tableGuard, 100, fmt.Sprintf("%s,arp,arp_sha=%s", own, g.GatewayMAC), "goto_table:%d", tableAnswer)
	r.add(tableGuard, 100, own+",ip", "goto_table:%d", tablePolicy)
	r.add(tableAnswer, 110, fmt.Sprintf("arp,in_port=%d,arp_tpa=%s", g.GatewayPort, g.Gateway), "drop")
	r.answer(g, g.Gateway, g.GatewayMAC)
	r.add(tableHost, 100, fmt.Sprintf("reg0=%#x", g.VNI), "output:%d", g.GatewayPort)
}

func (r *rendering) classify(g Segment, port int) {
	r.add(tableClassify, 100, fmt.Sprintf("in_port=%d", port), "set_field:%#x->reg0,goto_table:%d", g.VNI, tableGuard)
}

// answer renders the flow that turns an ARP request for ip into its owner's reply and
// sends it back (RFC 826).
func (r *rendering) answer(g Segment, ip netip.Addr, mac string) {
	r.add(tableAnswer, 100, fmt.Sprintf("arp,reg0=%#x,arp_op=1,arp_tpa=%s", g.VNI, ip),
		"move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[],set_field:%[1]s->eth_src,set_field:2->arp_op,"+
			"move:NXM_NX_ARP_SHA[]->NXM_NX_ARP_THA[],set_field:%[1]s->arp_sha,"+
			"move:NXM_OF_ARP_SPA[]->NXM_OF_ARP_TPA[],set_field:%[2]s->arp_spa,in_port", mac, ip)
}

// broadcast renders the flows for broadcast and multicast. Every local endpoint gets a
// copy. If the packet is from this host, every peer with endpoints gets one copy. A
// packet from a tunnel never leaves by a tunnel. The sender gets no copy, because a
// switch does not output to the port that a packet came in on.
func (r *rendering) broadcast(g Segment) {
	var local, remote []string
	for _, l := range g.Local {
		local = append(local, fmt.Sprintf("output:%d", l.OFPort))
	}
	if tunnels := g.tunnels(); len(tunnels) > 0 {
		remote = append(remote, fmt.Sprintf("set_field:%#x->tun_id", g.VNI))
		for _, t := range tunnels {
			remote = append(remote, fmt.Sprintf("output:%d", t))
		}
	}
	if both := slices.Concat(local, remote); len(both) > 0 {
		r.add(tableBroadcast, 100, fmt.Sprintf("reg0=%#x,reg1=0", g.VNI), "%s", strings.Join(both, ","))
	}
	if len(local) > 0 {
		r.add(tableBroadcast, 100, fmt.Sprintf("reg0=%#x,reg1=0x1", g.VNI), "%s", strings.Join(local, ","))
	}
}

func (r *rendering) remote(g Segment) {
	for _, m := range g.Remote {
		r.answer(g, m.IP, m.MAC)
		if m.OFPort > 0 {
			r.add(tableForward, 100, fmt.Sprintf("reg0=%#x,reg1=0,dl_dst=%s", g.VNI, m.MAC),
				"set_field:%#x->tun_id,output:%d", g.VNI, m.OFPort)
		}
	}
}
