package ovs

import (
	"cmp"
	"net"
	"net/netip"
	"slices"
)

// Forwarding is everything that this host's switch needs to carry packets. It is desired
// state: SetForwarding makes the flows match it.
type Forwarding struct {
	Self     netip.Addr // this host's VTEP
	Segments []Segment  // networks with an endpoint on this host
	Peers    []Peer     // all hosts with a tunnel
	Probe    Probe      // this host's part in probing the paths of the tunnels
}

// Peer is the host at the other end of a tunnel.
type Peer struct {
	ID     string
	VTEP   netip.Addr
	OFPort int // of the tunnel to it
}

// Segment describes one network for the switch.
type Segment struct {
	VNI         uint32       // 24 bits (RFC 7348)
	Subnet      netip.Prefix // IPv4
	Gateway     netip.Addr   // the same on every host
	GatewayMAC  string       // the same on every host
	GatewayPort int          // OpenFlow port of this host's gateway; 0 if there is none
	Metadata    bool         // allow packets to the cloud's metadata services
	Local       []Local
	Remote      []Remote
	Routes      []Route // destinations that the network reaches through an endpoint
}

// Local is an endpoint on this host.
type Local struct {
	OFPort  int
	MAC     string
	IP      netip.Addr
	Allowed []netip.Prefix // other source addresses that it may use, see allowance
}

// Remote is an endpoint on another host.
type Remote struct {
	MAC     string
	IP      netip.Addr
	OFPort  int            // of the tunnel to its host; 0 if there is none yet, then only its ARP is answered
	Allowed []netip.Prefix // other source addresses that it may use, as its host reports
}

// parseMAC returns the canonical form of a unicast MAC address, and "" for anything else.
// Strings from other hosts become text of flows; only the results of this function may.
func parseMAC(s string) string {
	hw, err := net.ParseMAC(s)
	if err != nil || len(hw) != 6 || hw[0]&1 != 0 || hw.String() == "00:00:00:00:00:00" {
		return ""
	}
	return hw.String()
}

// sane returns f without malformed or ambiguous parts and without remote endpoints that
// claim local addresses. If two parts claim the same, a local one wins over a remote one,
// and then the first in sort order. The returned parts are sorted. The strings name what
// sane dropped.
func (f Forwarding) sane() (Forwarding, []string) {
	var (
		out     = Forwarding{Self: f.Self.Unmap(), Probe: f.Probe.sane()}
		dropped []string
		taken   = map[int]bool{} // OpenFlow ports
		vnis    = map[uint32]bool{}
		tunnels = map[int]bool{}
		vteps   = map[netip.Addr]bool{out.Self: true}
	)
	f = f.sorted()
	for _, p := range f.Peers {
		p.VTEP = p.VTEP.Unmap()
		if p.OFPort <= 0 || p.OFPort > maxOFPort || taken[p.OFPort] || !p.VTEP.IsValid() || p.VTEP.Zone() != "" || vteps[p.VTEP] {
			dropped = append(dropped, "peer "+p.ID)
			continue
		}
		taken[p.OFPort], tunnels[p.OFPort], vteps[p.VTEP] = true, true, true
		out.Peers = append(out.Peers, p)
	}
	for _, g := range f.Segments {
		if g.VNI == 0 || g.VNI >= 1<<24 || vnis[g.VNI] || !g.Subnet.Addr().Is4() {
			dropped = append(dropped, "network "+g.Subnet.String())
			continue
		}
		vnis[g.VNI] = true
		seg, names := g.sane(taken, tunnels, vteps)
		out.Segments = append(out.Segments, seg)
		dropped = append(dropped, names...)
	}
	return out, dropped
}

func (g Segment) sane(taken, tunnels map[int]bool, hosts map[netip.Addr]bool) (Segment, []string) {
	var dropped []string
	macs, ips := map[string]bool{}, map[netip.Addr]bool{g.Gateway: true}
	out := Segment{VNI: g.VNI, Subnet: g.Subnet, Gateway: g.Gateway, GatewayMAC: parseMAC(g.GatewayMAC), GatewayPort: g.GatewayPort, Metadata: g.Metadata}
	if out.GatewayMAC == "" || !g.Gateway.Is4() || g.GatewayPort <= 0 || g.GatewayPort > maxOFPort || taken[g.GatewayPort] {
		if g.GatewayPort != 0 {
			dropped = append(dropped, "gateway "+g.Gateway.String())
		}
		out.GatewayPort = 0
	} else {
		taken[g.GatewayPort] = true
	}
	// The gateway addresses stay reserved even if the gateway has no port here.
	macs[out.GatewayMAC] = true
	claim := func(mac string, ip netip.Addr) bool {
		if mac == "" || macs[mac] || !ip.Is4() || ips[ip] || !g.Subnet.Contains(ip) {
			return false
		}
		macs[mac], ips[ip] = true, true
		return true
	}
	for _, l := range g.Local {
		l.MAC = parseMAC(l.MAC)
		if l.OFPort <= 0 || l.OFPort > maxOFPort || taken[l.OFPort] || !claim(l.MAC, l.IP) {
			dropped = append(dropped, "local endpoint "+l.IP.String())
			continue
		}
		taken[l.OFPort] = true
		out.Local = append(out.Local, l)
	}
	for _, r := range g.Remote {
		r.MAC = parseMAC(r.MAC)
		if !claim(r.MAC, r.IP) {
			dropped = append(dropped, "remote endpoint "+r.IP.String())
			continue
		}
		if !tunnels[r.OFPort] {
			r.OFPort = 0
		}
		out.Remote = append(out.Remote, r)
	}
	dropped = append(dropped, out.cleanAllowed(ips, hosts)...)
	return out, append(dropped, out.cleanRoutes(g.Routes)...)
}

// sorted returns f with its parts in an order that depends only on their values.
func (f Forwarding) sorted() Forwarding {
	f.Peers = slices.SortedFunc(slices.Values(f.Peers), func(a, b Peer) int {
		return cmp.Or(cmp.Compare(a.OFPort, b.OFPort), cmp.Compare(a.ID, b.ID))
	})
	f.Segments = slices.SortedStableFunc(slices.Values(f.Segments), func(a, b Segment) int {
		return cmp.Or(cmp.Compare(a.VNI, b.VNI), cmp.Compare(a.Subnet.String(), b.Subnet.String()))
	})
	for i, g := range f.Segments {
		f.Segments[i].Local = slices.SortedFunc(slices.Values(g.Local), func(a, b Local) int {
			return cmp.Or(a.IP.Compare(b.IP), cmp.Compare(a.OFPort, b.OFPort), cmp.Compare(a.MAC, b.MAC))
		})
		f.Segments[i].Remote = slices.SortedFunc(slices.Values(g.Remote), func(a, b Remote) int {
			return cmp.Or(a.IP.Compare(b.IP), cmp.Compare(a.OFPort, b.OFPort), cmp.Compare(a.MAC, b.MAC))
		})
	}
	return f
}

// ports returns the OpenFlow ports that f uses.
func (f Forwarding) ports() map[int]bool {
	used := map[int]bool{}
	for _, p := range f.Peers {
		used[p.OFPort] = true
	}
	for _, g := range f.Segments {
		used[g.GatewayPort] = true
		for _, l := range g.Local {
			used[l.OFPort] = true
		}
	}
	delete(used, 0)
	return used
}
