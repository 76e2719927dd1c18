package verdict

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/socketplane/socketplane/agent/cluster"
	"github.com/socketplane/socketplane/agent/network"
)

const self = "self"

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func facts() Facts {
	return Facts{
		Self: self, VTEP: netip.MustParseAddr("198.18.0.1"), Now: start,
		Routes: []netip.Prefix{netip.MustParsePrefix("198.18.0.0/24"), netip.MustParsePrefix("172.17.0.0/16")},
		Addrs:  []netip.Prefix{netip.MustParsePrefix("198.18.0.1/24"), netip.MustParsePrefix("172.17.0.1/16"), netip.MustParsePrefix("127.0.0.1/8")},
	}
}

func net(id, subnet string, version uint64) network.Record {
	p := netip.MustParsePrefix(subnet)
	return network.Record{ID: id, Subnet: p, Gateway: p.Addr().Next(), VLAN: int(version), VNI: uint32(10000 + version), Version: version}
}

func host(id, vtep string, revision uint64) cluster.Host {
	return cluster.Host{ID: id, Name: "name-" + id, VTEP: netip.MustParseAddr(vtep), MTU: 1500, Alive: true, Revision: revision}
}

func networks(list ...network.Record) Stored { return Stored{Networks: list} }

func TestSubnets(t *testing.T) {
	for subnet, says := range map[string]string{
		"10.6.0.0/16": "", "172.20.0.0/16": "", "192.168.4.0/24": "", "100.64.0.0/10": "", "198.19.0.0/24": "",
		"198.18.0.0/16": "198.18.0.1", "198.18.0.128/25": "route 198.18.0.0/24", "172.17.9.0/24": "route 172.17.0.0/16", "172.16.0.0/12": "172.17.0.1",
		"8.8.8.0/24": "no private range", "203.0.113.0/24": "no private range", "172.0.0.0/8": "no private range", "11.0.0.0/8": "no private range",
		"127.5.0.0/16": "127.0.0.0/8", "169.254.0.0/16": "169.254.0.0/16", "224.0.0.0/24": "224.0.0.0/3", "240.0.0.0/8": "224.0.0.0/3", "0.0.0.0/8": "0.0.0.0/8",
	} {
		r := net("n", subnet, 7)
		n := Judge(networks(r), nil, facts(), Memory{}).Networks["n"]
		if (n.Refused != "") != (says != "") || !strings.Contains(n.Refused, says) || says != "" && !strings.Contains(n.Refused, "version 7") {
			t.Errorf("%s: %q, want %q", subnet, n.Refused, says)
		}
	}
	f := facts()
	f.AllowPublic = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("169.254.0.0/16")}
	for subnet, ok := range map[string]bool{"203.0.113.0/25": true, "203.0.112.0/23": false, "169.254.0.0/16": false} {
		if n := Judge(networks(net("n", subnet, 1)), nil, f, Memory{}).Networks["n"]; (n.Refused == "") != ok {
			t.Errorf("allowed: %s: %q", subnet, n.Refused)
		}
	}
}

// A network that is in use keeps what it has, whatever its record or the host's
// routes become; one that is not in use yields to a route, and comes back.
func TestNetworkInUse(t *testing.T) {
	was := net("n", "10.6.0.0/16", 1)
	used := map[string]network.Record{"n": was}
	for name, change := range map[string]func(*network.Record){
		"subnet": func(r *network.Record) {
			r.Subnet, r.Gateway = netip.MustParsePrefix("198.18.0.0/24"), netip.MustParseAddr("198.18.0.9")
		},
		"VNI":  func(r *network.Record) { r.VNI++ },
		"VLAN": func(r *network.Record) { r.VLAN++ },
	} {
		r := was
		r.Version = 9
		change(&r)
		n := Judge(networks(r), used, facts(), Memory{}).Networks["n"]
		if n.Refused != "" || !strings.Contains(n.Warning, "changed to") || !strings.Contains(n.Warning, "version 9") {
			t.Errorf("%s: %+v", name, n)
		}
	}
	vpn := facts()
	vpn.Routes = append(vpn.Routes, netip.MustParsePrefix("10.6.1.0/24"))
	v := Judge(networks(was), used, vpn, Memory{})
	if n := v.Networks["n"]; n.Refused != "" || !strings.Contains(n.Warning, "route 10.6.1.0/24") {
		t.Errorf("in use: %+v", n)
	}
	if v = Judge(networks(was), nil, vpn, v.Memory); v.Networks["n"].Refused == "" {
		t.Error("not in use, and not refused")
	}
	if v = Judge(networks(was), nil, facts(), v.Memory); v.Networks["n"].Refused != "" {
		t.Errorf("not healed: %+v", v.Networks["n"])
	}
}

// Of two networks that want the same, the one in use stands before the one known
// before, and that before the older record.
func TestTwoNetworks(t *testing.T) {
	old, young := net("z", "10.6.0.0/16", 1), net("a", "10.6.4.0/24", 2)
	refused := func(v Verdict) string {
		var list []string
		for id, n := range v.Networks {
			if n.Refused != "" {
				list = append(list, id)
			}
		}
		return strings.Join(list, " ")
	}
	v := Judge(networks(young, old), nil, facts(), Memory{})
	if refused(v) != "a" || !strings.Contains(v.Networks["a"].Refused, `network "z"`) {
		t.Errorf("%+v", v.Networks)
	}
	if v := Judge(networks(young, old), map[string]network.Record{"a": young}, facts(), Memory{}); refused(v) != "z" {
		t.Errorf("in use: %+v", v.Networks)
	}
	old.Version = 30 // as after a deletion that was taken back
	if v := Judge(networks(young, old), nil, facts(), v.Memory); refused(v) != "a" {
		t.Errorf("known: %+v", v.Networks)
	}
	vni := net("b", "10.9.0.0/16", 3)
	vni.VNI = old.VNI
	if v := Judge(networks(vni, old), nil, facts(), v.Memory); refused(v) != "b" || !strings.Contains(v.Networks["b"].Refused, "VNI 10001") {
		t.Errorf("VNI: %+v", v.Networks)
	}
	// The subnet of a network that is in use and gone from the store is taken.
	if v := Judge(networks(young), map[string]network.Record{"z": old}, facts(), Memory{}); refused(v) != "a" {
		t.Errorf("gone from the store: %+v", v.Networks)
	}
}

func hosts(list ...cluster.Host) Stored { return Stored{Hosts: list} }

func TestTunnelAddresses(t *testing.T) {
	for vtep, says := range map[string]string{
		"198.18.0.2": "", "10.1.2.3": "", "203.0.113.5": "",
		"198.18.0.255": "broadcast", "198.18.0.0": "broadcast", "172.17.255.255": "broadcast", "255.255.255.255": "no unicast",
		"224.0.0.1": "no unicast", "127.0.0.1": "no unicast", "0.0.0.0": "no unicast", "0.1.2.3": "no unicast", "240.0.0.1": "no unicast", "169.254.3.4": "no unicast",
		"172.17.0.2": "in 172.17.0.0/16 of interface docker0", "172.17.8.9": "", "192.0.2.7": "in 192.0.2.0/24 of interface br-1", "192.0.2.200": "",
		"198.18.0.1": "of this host", "172.17.0.1": "of this host", "::ffff:198.18.0.7": "no unicast", "2001:db8::1": "IP version", "10.6.0.9": `network "n"`,
	} {
		s := hosts(host("p", vtep, 1))
		f := facts()
		f.Subnets = []Subnet{
			{netip.MustParsePrefix("198.18.0.0/24"), "eth0", true},
			{netip.MustParsePrefix("172.17.0.0/16"), "docker0", false},
			{netip.MustParsePrefix("172.17.8.0/24"), "eth1", true}, // within that of the bridge: the longer prefix leads
			{netip.MustParsePrefix("192.0.2.0/24"), "br-1", false},
			{netip.MustParsePrefix("192.0.2.128/25"), "br-2", false},
			{netip.MustParsePrefix("192.0.2.128/25"), "vlan5", true},
			{netip.MustParsePrefix("203.0.113.5/32"), "dummy0", false},
		}
		v := Judge(s, map[string]network.Record{"n": net("n", "10.6.0.0/16", 1)}, f, Memory{})
		p := v.Peers["p"]
		if believed := len(v.Hosts) == 1; believed != p.VTEP.IsValid() {
			t.Errorf("%s: hosts %v, peer %+v", vtep, v.Hosts, p)
		}
		if p.VTEP.IsValid() != (says == "") || !strings.Contains(p.Problem, says) || says != "" && !strings.Contains(p.Problem, "key socketplane/v1/hosts/p") {
			t.Errorf("%s: %+v, want %q", vtep, p, says)
		}
	}
}

// Who was known first at an address keeps it, by whatever name or version another
// claims it.
func TestTwoHostsOneAddress(t *testing.T) {
	victim, thief := host("v", "198.18.0.2", 5), host("a", "198.18.0.2", 9)
	check := func(when string, v Verdict) {
		t.Helper()
		if !v.Peers["v"].VTEP.IsValid() || v.Peers["a"].VTEP.IsValid() || !strings.Contains(v.Peers["a"].Problem, `"name-v"`) {
			t.Errorf("%s: %+v", when, v.Peers)
		}
	}
	v := Judge(hosts(victim), nil, facts(), Memory{})
	thief.Revision = 1
	check("known first", Judge(hosts(thief, victim), nil, facts(), v.Memory))
	check("by its tunnel", Judge(hosts(thief, victim), nil, facts(), Remember(map[string]netip.Addr{"v": victim.VTEP})))
	thief.Revision = 9
	check("older record", Judge(hosts(thief, victim), nil, facts(), Memory{}))

	// A machine that was installed anew: its former record is dead, and no problem.
	former := victim
	former.Alive = false
	v = Judge(hosts(former, thief), nil, facts(), v.Memory)
	if v.Peers["v"].VTEP.IsValid() || v.Peers["v"].Problem != "" || !v.Peers["a"].VTEP.IsValid() {
		t.Errorf("installed anew: %+v", v.Peers)
	}
	// It was no such machine: the first one lives.
	check("the first is back", Judge(hosts(victim, thief), nil, facts(), v.Memory))
}

// While a host's agent is away, no host that is known at another address takes its
// tunnel address; a machine that was installed anew does, and so does anybody once the
// host is dead.
func TestAgentAway(t *testing.T) {
	victim, known := host("v", "198.18.0.2", 5), host("k", "198.18.0.3", 6)
	first := Judge(hosts(victim, known), nil, facts(), Memory{})
	for name, m := range map[string]Memory{
		"running":       first.Memory,
		"started again": Remember(map[string]netip.Addr{"v": victim.VTEP, "k": known.VTEP}),
	} {
		away, thief, f := victim, known, facts()
		away.Alive, thief.VTEP, thief.Revision = false, victim.VTEP, 9
		for range 10 { // the moment after which a move is believed passes, too
			v := Judge(hosts(away, thief), nil, f, m)
			if v.Peers["v"].VTEP != victim.VTEP || v.Peers["v"].Problem != "" {
				t.Fatalf("%s: the host whose agent is away: %+v", name, v.Peers)
			}
			if p := v.Peers["k"]; p.VTEP != known.VTEP || !p.Elsewhere || !strings.Contains(p.Problem, `"name-v"`) {
				t.Fatalf("%s: who claims its address: %+v", name, p)
			}
			m, f.Now = v.Memory, f.Now.Add(time.Second)
		}

		// The machine was installed anew, while the other claims its address too.
		v := Judge(hosts(away, thief, host("n", "198.18.0.2", 10)), nil, f, m)
		if v.Peers["n"].VTEP != victim.VTEP || v.Peers["n"].Elsewhere || v.Peers["v"].VTEP.IsValid() || v.Peers["k"].VTEP != known.VTEP {
			t.Errorf("%s: installed anew: %+v", name, v.Peers)
		}

		// The host is dead, and its address was given to the other.
		dead := hosts(away, thief)
		dead.Gone = map[string]bool{"v": true}
		v = Judge(dead, nil, f, m)
		f.Now = f.Now.Add(moveAfter)
		if v = Judge(dead, nil, f, v.Memory); v.Peers["k"].VTEP != victim.VTEP || v.Peers["k"].Elsewhere || v.Peers["k"].Problem != "" {
			t.Errorf("%s: after its death: %+v", name, v.Peers)
		}
	}
}

// A known peer whose record is spoilt keeps its tunnel, and one whose record names
// another address has to stand by it for a moment.
func TestPeerMoves(t *testing.T) {
	was := host("p", "198.18.0.2", 1)
	v := Judge(hosts(was), nil, facts(), Memory{})
	other := host("q", "198.18.0.3", 2)
	v = Judge(hosts(was, other), nil, facts(), v.Memory)
	for _, bad := range []string{"198.18.0.255", "198.18.0.1", "198.18.0.3"} {
		n := Judge(hosts(host("p", bad, 3), other), nil, facts(), v.Memory)
		if p := n.Peers["p"]; p.VTEP != was.VTEP || p.Problem == "" || n.Peers["q"].VTEP != other.VTEP {
			t.Errorf("%s: %+v", bad, n.Peers)
		}
	}
	f := facts()
	moved := host("p", "198.18.0.77", 3)
	n := Judge(hosts(moved, other), nil, f, v.Memory)
	if p := n.Peers["p"]; p.VTEP != was.VTEP || n.Again != moveAfter {
		t.Errorf("at once: %+v, again in %v", p, n.Again)
	}
	f.Now = start.Add(time.Second)
	if back := Judge(hosts(was, other), nil, f, n.Memory); back.Peers["p"].VTEP != was.VTEP || back.Again != 0 {
		t.Errorf("put right: %+v", back)
	}
	f.Now = start.Add(moveAfter)
	if n = Judge(hosts(moved, other), nil, f, n.Memory); n.Peers["p"].VTEP != moved.VTEP || n.Again != 0 {
		t.Errorf("after a while: %+v", n)
	}
}

// A network that is not in use yields to the tunnel address of a peer; a peer that
// comes later does not take a network away.
func TestPeerInNetwork(t *testing.T) {
	s := Stored{Hosts: []cluster.Host{host("p", "10.6.0.9", 1)}, Networks: []network.Record{net("n", "10.6.0.0/16", 2)}}
	v := Judge(s, nil, facts(), Memory{})
	if !v.Peers["p"].VTEP.IsValid() || !strings.Contains(v.Networks["n"].Refused, "tunnel address 10.6.0.9") {
		t.Errorf("%+v", v)
	}
	v = Judge(networks(s.Networks...), nil, facts(), Memory{})
	if v = Judge(s, nil, facts(), v.Memory); v.Peers["p"].VTEP.IsValid() || v.Networks["n"].Refused != "" {
		t.Errorf("later: %+v", v)
	}
}

func TestMTU(t *testing.T) {
	me := host(self, "198.18.0.1", 1)
	small, v6 := host("s", "198.18.0.2", 2), host("w", "2001:db8::1", 3)
	for _, c := range []struct{ mine, theirs, want int }{
		{1500, 1500, 1450}, {1500, 1400, 1350}, {1500, 1280, 1230}, {1500, 1279, 1450}, {1500, 646, 1450}, {1200, 1500, 1150}, {9000, 9000, 8950},
	} {
		me.MTU, small.MTU = c.mine, c.theirs
		if got := MTU(me, []cluster.Host{me, small}); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
	me.MTU, small.MTU = 1500, 1280
	if got := MTU(me, []cluster.Host{me, small, v6}); got != 1230 {
		t.Errorf("with IPv6: %d", got)
	}
}

// Whatever is in the store, no two networks that this host may use overlap or share
// a VNI, no two peers share an address, and what is known stays.
func TestAnyStore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(label string) Stored {
			var s Stored
			for i := range rapid.IntRange(0, 6).Draw(t, label+" networks") {
				bits := rapid.IntRange(8, 30).Draw(t, "bits")
				a := netip.AddrFrom4([4]byte{rapid.SampledFrom([]byte{10, 198, 203, 127}).Draw(t, "range"), rapid.SampledFrom([]byte{18, 0, 6}).Draw(t, "second"), byte(rapid.IntRange(0, 3).Draw(t, "third")), 0})
				r := net(fmt.Sprint("n", i), netip.PrefixFrom(a, bits).Masked().String(), uint64(rapid.IntRange(1, 9).Draw(t, "version")))
				s.Networks = append(s.Networks, r)
			}
			for i := range rapid.IntRange(0, 5).Draw(t, label+" hosts") {
				h := host(fmt.Sprint("h", i), fmt.Sprintf("198.18.0.%d", rapid.IntRange(0, 5).Draw(t, "vtep")), uint64(rapid.IntRange(1, 9).Draw(t, "revision")))
				h.Alive = rapid.Bool().Draw(t, "alive")
				s.Hosts = append(s.Hosts, h)
			}
			return s
		}
		first := draw("first")
		v := Judge(first, nil, facts(), Memory{})
		for _, s := range []Stored{first, draw("second")} {
			v = Judge(s, nil, facts(), v.Memory)
			var used []network.Record
			for _, n := range v.Networks {
				if n.Refused == "" {
					used = append(used, n.Record)
				}
			}
			for i, a := range used {
				for _, b := range used[:i] {
					if a.Subnet.Overlaps(b.Subnet) || a.VNI == b.VNI {
						t.Fatalf("%v and %v", a, b)
					}
				}
			}
			at := map[netip.Addr]string{facts().VTEP: self}
			for id, p := range v.Peers {
				if other := at[p.VTEP]; p.VTEP.IsValid() && other != "" {
					t.Fatalf("%s and %s at %s", id, other, p.VTEP)
				}
				at[p.VTEP] = id
			}
		}
	})
}

func BenchmarkJudge(b *testing.B) {
	s := Stored{}
	for i := range 4000 {
		s.Networks = append(s.Networks, net(fmt.Sprint("n", i), fmt.Sprintf("10.%d.%d.0/24", i/256, i%256), uint64(i+1)))
	}
	for i := range 256 {
		s.Hosts = append(s.Hosts, host(fmt.Sprint("h", i), fmt.Sprintf("198.19.0.%d", i), uint64(i)))
	}
	for b.Loop() {
		Judge(s, nil, facts(), Memory{})
	}
}
