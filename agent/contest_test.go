package agent

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/ovs"
)

// TestContestsAreDecidedOnce: what the agent takes for settled the switch is told,
// all of it; and who does not get what he claims is named, whoever has it. Who loses to a
// permission loses to one that the switch grants.
func TestContestsAreDecidedOnce(t *testing.T) {
	gateway := netip.MustParseAddr("10.6.0.1")
	addrs, macs := []netip.Addr{}, []string{}
	for i := range 6 {
		ip := netip.AddrFrom4([4]byte{10, 6, 0, byte(i)}) // the network's own and the gateway's are among them
		addrs, macs = append(addrs, ip), append(macs, macOf(ip))
	}
	addrs = append(addrs, netip.MustParseAddr("10.6.0.7"), netip.MustParseAddr("10.7.0.1")) // broadcast, and outside
	var prefixes []netip.Prefix
	for _, p := range []string{"10.6.0.2/31", "10.6.0.4/31", "10.6.0.4/32", "10.6.0.5/32", "10.6.0.6/31", "10.6.0.0/29", "10.0.0.0/8"} {
		prefixes = append(prefixes, netip.MustParsePrefix(p))
	}
	permissions := 0 // claims that lost to one
	for seed := range uint64(2000) {
		random := rand.New(rand.NewPCG(seed, 1))
		ip := func() netip.Addr { return addrs[random.IntN(len(addrs))] }
		mac := func() string { return macs[random.IntN(len(macs))] }
		allowed := func() []netip.Prefix { return prefixes[:0:0] }
		if seed >= 300 {
			allowed = func() []netip.Prefix {
				i := random.IntN(len(prefixes))
				return prefixes[i:min(i+random.IntN(3), len(prefixes))]
			}
		}
		seg := ovs.Segment{
			VNI: 10001, Subnet: netip.MustParsePrefix("10.6.0.0/29"), Gateway: gateway, GatewayMAC: macOf(gateway), GatewayPort: 99,
		}
		for i := range random.IntN(3) {
			seg.Local = append(seg.Local, ovs.Local{OFPort: 1 + i, IP: netip.AddrFrom4([4]byte{10, 6, 0, byte(2 + i)}), MAC: mac(), Allowed: allowed()})
		}
		var claims []claim
		for i := range random.IntN(6) {
			host := 1 + random.IntN(3)
			claims = append(claims, claim{
				host: fmt.Sprintf("h%d", host), ofport: 10 + host, missed: seed >= 300 && random.IntN(4) == 0,
				endpoint: endpoint{ID: fmt.Sprintf("e%d", i), IP: ip(), MAC: mac(), Allowed: allowed()},
			})
		}
		name := func(id string) string { return id }
		var c contests
		if n := random.IntN(1 + len(claims)); seed >= 300 { // the others come later, and again
			c.settle("foo", slices.Clone(claims[:n]), seg, name)
			for range 3 {
				c.settle("foo", slices.Clone(claims), seg, name)
			}
		}
		locals := len(seg.Local)
		settled, _ := c.settle("foo", slices.Clone(claims), seg, name)
		news := c.lost["foo"]
		// What vanished is not named if it loses.
		all, current := 0, map[string]int{}
		for _, cl := range claims {
			if !cl.missed {
				all++
				current[fmt.Sprint(cl.ofport, cl.endpoint.IP, cl.endpoint.MAC)]++
			}
		}
		for _, r := range settled.Remote {
			if key := fmt.Sprint(r.OFPort, r.IP, r.MAC); current[key] > 0 {
				current[key]--
				all--
			}
		}
		f := ovs.Forwarding{Segments: []ovs.Segment{settled}}
		for host := 1; host <= 3; host++ {
			f.Peers = append(f.Peers, ovs.Peer{ID: fmt.Sprintf("h%d", host), VTEP: netip.AddrFrom4([4]byte{192, 0, 2, byte(host)}), OFPort: 10 + host})
		}
		var flows strings.Builder
		for _, flow := range f.Flows() {
			flows.WriteString(flow.Match + "\n")
		}
		for _, r := range settled.Remote {
			if !strings.Contains(flows.String(), fmt.Sprintf("reg0=0x2711,reg1=0,dl_dst=%s\n", r.MAC)) {
				t.Errorf("seed %d: the switch is not told of remote %v", seed, r)
			}
		}
		for _, l := range settled.Local {
			if !strings.Contains(flows.String(), fmt.Sprintf("in_port=%d,", l.OFPort)) {
				t.Errorf("seed %d: the switch is not told of local %v", seed, l)
			}
		}
		for _, sentence := range news {
			_, claimed, _ := strings.Cut(sentence, "claims address ")
			claimed, _, _ = strings.Cut(claimed, " ")
			if !strings.Contains(sentence, " is allowed;") {
				continue
			}
			permissions++
			if !slices.ContainsFunc(prefixes, func(p netip.Prefix) bool {
				return p.Contains(netip.MustParseAddr(claimed)) && (strings.Contains(flows.String(), "arp_spa="+strings.TrimSuffix(p.String(), "/32")+"\n") ||
					strings.Contains(flows.String(), "arp_spa="+strings.TrimSuffix(p.String(), "/32")+","))
			}) {
				t.Errorf("seed %d: no permission for it is in force: %s", seed, sentence)
			}
		}
		if lost := all + locals - len(settled.Local); lost != len(news) {
			t.Errorf("seed %d: %d do not get what they claim, and %d are named: %q", seed, lost, len(news), news)
		}
	}
	if permissions == 0 {
		t.Error("no claim lost to a permission")
	}
}

// TestMACOfItsOwn: an endpoint whose usual MAC address is taken gets another one.
func TestMACOfItsOwn(t *testing.T) {
	h := newTestHost(t)
	_, err := h.Attach(t.Context(), api.AttachRequest{ID: "c1", Network: "foo", IP: "10.6.0.9", MAC: "02:42:0a:06:00:02", NetNS: "/ns/1", Source: api.SourceDocker})
	if err != nil {
		t.Fatal(err)
	}
	e := h.mustAttach("c2", "foo", "/ns/2")
	if e.IP.String() != "10.6.0.2" || e.MAC == "02:42:0a:06:00:02" {
		t.Errorf("%s has MAC address %s", e.IP, e.MAC)
	}
	if again := h.mustAttach("c3", "foo", "/ns/3"); again.MAC != macOf(again.IP) {
		t.Errorf("%s has MAC address %s", again.IP, again.MAC)
	}
	if segs := h.sw.Forwarding().Segments; len(segs) != 1 || len(segs[0].Local) != 3 {
		t.Errorf("the switch is told %+v", segs)
	}
	h.converge()
	h.well()
}

// TestSameMACAtOnce: of those that ask for one MAC address at the same moment one gets it.
func TestSameMACAtOnce(t *testing.T) {
	h := newTestHost(t)
	const n = 20
	var wg sync.WaitGroup
	errs := make([]error, n)
	for i := range n {
		wg.Go(func() {
			_, errs[i] = h.Reserve(t.Context(), api.ReserveRequest{ID: fmt.Sprintf("c%d", i), Network: "foo", MAC: "02:00:00:00:00:07", Source: api.SourceDocker})
		})
	}
	wg.Wait()
	h.settle()
	got := 0
	for _, err := range errs {
		if err == nil {
			got++
		} else {
			wantCode(t, err, api.CodeConflict, "MAC address 02:00:00:00:00:07 is taken")
		}
	}
	if got != 1 {
		t.Errorf("%d have it", got)
	}
	h.converge()
	if list, err := h.Addresses.List(t.Context(), netip.MustParsePrefix("10.6.0.0/16")); err != nil || len(list) != 1 {
		t.Errorf("addresses: %v, %v", list, err)
	}
	h.wantAgreement()
}
