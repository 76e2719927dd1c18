package ovs

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "write the golden files")

// golden is a state with everything in it.
func golden() Forwarding {
	return Forwarding{
		Self: addr("198.18.0.1"),
		Peers: []Peer{
			{ID: "b", VTEP: addr("198.18.0.2"), OFPort: 11},
			{ID: "c", VTEP: addr("198.18.0.3"), OFPort: 12},
			{ID: "d", VTEP: addr("198.18.0.4"), OFPort: 13}, // without endpoints
		},
		Segments: []Segment{
			{
				VNI: 100, Subnet: prefix("10.6.0.0/16"), Gateway: addr("10.6.0.1"), GatewayMAC: mac(1), GatewayPort: 3,
				Local:  []Local{{OFPort: 1, MAC: mac(2), IP: addr("10.6.0.2")}, {OFPort: 2, MAC: mac(3), IP: addr("10.6.0.3")}},
				Remote: []Remote{{MAC: mac(4), IP: addr("10.6.0.4"), OFPort: 11}, {MAC: mac(5), IP: addr("10.6.0.5"), OFPort: 12}, {MAC: mac(6), IP: addr("10.6.0.6")}},
			},
			{ // the same addresses in another network, no gateway, nobody elsewhere
				VNI: 200, Subnet: prefix("10.6.0.0/16"), Gateway: addr("10.6.0.1"), GatewayMAC: mac(1), Metadata: true,
				Local: []Local{{OFPort: 4, MAC: mac(2), IP: addr("10.6.0.2")}},
			},
		},
	}
}

func text(f Forwarding) string {
	var b strings.Builder
	for _, fl := range f.Flows() {
		b.WriteString(fl.String() + "\n")
	}
	return b.String()
}

func TestRendering(t *testing.T) {
	for name, f := range map[string]Forwarding{"full": golden(), "empty": {}} {
		file := "testdata/" + name + ".flows"
		got := text(f)
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", file, diff)
		}
	}
}

func TestOrderDoesNotMatter(t *testing.T) {
	f := golden()
	slices.Reverse(f.Peers)
	slices.Reverse(f.Segments)
	for _, g := range f.Segments {
		slices.Reverse(g.Local)
		slices.Reverse(g.Remote)
	}
	before := fmt.Sprint(f)
	if diff := cmp.Diff(text(golden()), text(f)); diff != "" {
		t.Errorf("reversed (-want +got):\n%s", diff)
	}
	if fmt.Sprint(f) != before {
		t.Error("rendering changed the state")
	}
}

// What others say about their endpoints must not reach the flows unless it is
// well-formed and takes nothing that is here.
func TestHostileState(t *testing.T) {
	want := text(golden())
	seg := func(change func(*Segment)) Forwarding {
		f := golden()
		change(&f.Segments[0])
		return f
	}
	remote := func(r Remote) Forwarding {
		return seg(func(g *Segment) { g.Remote = append(g.Remote, r) })
	}
	for name, f := range map[string]Forwarding{
		"text in a MAC":                remote(Remote{MAC: mac(9) + ",actions=normal\nadd priority=9", IP: addr("10.6.0.9"), OFPort: 11}),
		"multicast MAC":                remote(Remote{MAC: "ff:ff:ff:ff:ff:ff", IP: addr("10.6.0.9"), OFPort: 11}),
		"no MAC":                       remote(Remote{IP: addr("10.6.0.9"), OFPort: 11}),
		"EUI-64":                       remote(Remote{MAC: "02:00:5e:10:00:00:00:01", IP: addr("10.6.0.9"), OFPort: 11}),
		"no address":                   remote(Remote{MAC: mac(9), OFPort: 11}),
		"IPv6":                         remote(Remote{MAC: mac(9), IP: addr("fe80::1%a,actions=normal"), OFPort: 11}),
		"outside the subnet":           remote(Remote{MAC: mac(9), IP: addr("10.7.0.9"), OFPort: 11}),
		"the gateway's address":        remote(Remote{MAC: mac(9), IP: addr("10.6.0.1"), OFPort: 11}),
		"the gateway's MAC":            remote(Remote{MAC: mac(1), IP: addr("10.6.0.9"), OFPort: 11}),
		"a local one's address":        remote(Remote{MAC: mac(9), IP: addr("10.6.0.2"), OFPort: 11}),
		"a local one's MAC":            remote(Remote{MAC: strings.ToUpper(mac(2)), IP: addr("10.6.0.9"), OFPort: 11}),
		"another remote one's address": remote(Remote{MAC: mac(9), IP: addr("10.6.0.4"), OFPort: 13}),
		"a port of another's": seg(func(g *Segment) {
			g.Local = append(g.Local, Local{OFPort: 11, MAC: mac(9), IP: addr("10.6.0.9")})
		}),
		"VNI of another": func() Forwarding {
			f := golden()
			f.Segments = append(f.Segments, Segment{VNI: 100, Subnet: prefix("10.9.0.0/16")})
			return f
		}(),
		"VNI of 25 bits": func() Forwarding {
			f := golden()
			f.Segments = append(f.Segments, Segment{VNI: 1 << 24, Subnet: prefix("10.9.0.0/16")})
			return f
		}(),
		"a peer with our VTEP": func() Forwarding {
			f := golden()
			f.Peers = append(f.Peers, Peer{ID: "e", VTEP: f.Self, OFPort: 14})
			return f
		}(),
		"a peer with another's VTEP": func() Forwarding {
			f := golden()
			f.Peers = append(f.Peers, Peer{ID: "e", VTEP: addr("198.18.0.2"), OFPort: 14})
			return f
		}(),
		"no tunnel": func() Forwarding {
			f := golden()
			f.Peers = append(f.Peers, Peer{ID: "e", VTEP: addr("198.18.0.9")})
			return f
		}(),
	} {
		if diff := cmp.Diff(want, text(f)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if _, dropped := f.sane(); len(dropped) != 1 {
			t.Errorf("%s: dropped %v", name, dropped)
		}
	}
	// A remote endpoint cannot name a port that is no tunnel.
	f := remote(Remote{MAC: mac(9), IP: addr("10.6.0.9"), OFPort: 4})
	if got := text(f); strings.Contains(got, "dl_dst="+mac(9)) || !strings.Contains(got, "arp_tpa=10.6.0.9") {
		t.Errorf("a remote endpoint on a local port:\n%s", got)
	}
}

func TestParseDiff(t *testing.T) {
	got, err := parseDiff(`-priority=100,in_port=5 cookie=0x736f636b actions=drop
+priority=100,in_port=6 cookie=0x736f636b actions=set_field:0x64->reg0,goto_table:1
-table=4 priority=200,ip cookie=0x736f636b actions=goto_table:5
+table=4 priority=200,ip cookie=0x736f636b actions=drop
-table=7 priority=5 cookie=0x9 actions=drop
-table=8 priority=5 actions=drop
`)
	want := []string{
		"add priority=100,in_port=6 cookie=0x736f636b actions=set_field:0x64->reg0,goto_table:1",
		"add table=4 priority=200,ip cookie=0x736f636b actions=drop",
		"delete_strict priority=100,in_port=5",
	}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	for _, bad := range []string{"no flows", " priority=1 actions=drop", "-priority=1"} {
		if _, err := parseDiff(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

// randomState draws from few values, so that states share much and conflict at times.
func randomState() *rapid.Generator[Forwarding] {
	return rapid.Custom(func(t *rapid.T) Forwarding {
		f := Forwarding{Self: addr("198.18.0.1")}
		for n := range rapid.IntRange(0, 3).Draw(t, "peers") {
			f.Peers = append(f.Peers, Peer{ID: fmt.Sprint(n), VTEP: addr(fmt.Sprintf("198.18.0.%d", rapid.IntRange(1, 4).Draw(t, "vtep"))), OFPort: 100 + n})
		}
		for range rapid.IntRange(0, 3).Draw(t, "segments") {
			g := Segment{
				VNI: uint32(rapid.IntRange(100, 103).Draw(t, "vni")), Subnet: prefix("10.6.0.0/16"),
				Gateway: addr("10.6.0.1"), GatewayMAC: mac(1), GatewayPort: rapid.IntRange(0, 3).Draw(t, "gateway"),
			}
			ip := func() (string, netip.Addr) {
				n := rapid.IntRange(1, 8).Draw(t, "host")
				return mac(n), addr(fmt.Sprintf("10.6.0.%d", n))
			}
			allowed := func() (list []netip.Prefix) {
				for range rapid.IntRange(0, 3).Draw(t, "allowed") {
					a := addr(fmt.Sprintf("%s.0.%d", rapid.SampledFrom([]string{"10.6", "10.99"}).Draw(t, "net"), rapid.IntRange(1, 16).Draw(t, "vip")))
					list = append(list, netip.PrefixFrom(a, rapid.IntRange(28, 32).Draw(t, "bits")).Masked())
				}
				return list
			}
			for range rapid.IntRange(0, 4).Draw(t, "local") {
				m, a := ip()
				g.Local = append(g.Local, Local{OFPort: rapid.IntRange(4, 12).Draw(t, "port"), MAC: m, IP: a, Allowed: allowed()})
			}
			for range rapid.IntRange(0, 4).Draw(t, "remote") {
				m, a := ip()
				g.Remote = append(g.Remote, Remote{MAC: m, IP: a, OFPort: rapid.SampledFrom([]int{0, 100, 101, 102}).Draw(t, "tunnel"), Allowed: allowed()})
			}
			for range rapid.IntRange(0, 3).Draw(t, "routes") {
				_, via := ip()
				g.Routes = append(g.Routes, Route{Prefix: netip.PrefixFrom(addr("10.99.0.0"), rapid.IntRange(28, 32).Draw(t, "bits")), Via: via})
			}
			f.Segments = append(f.Segments, g)
		}
		return f
	})
}

func TestFlowsAreDistinct(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seen := map[flowKey]Flow{}
		for _, f := range randomState().Draw(t, "state").Flows() {
			if other, ok := seen[f.key()]; ok {
				t.Fatalf("%s\nand\n%s", other, f)
			}
			seen[f.key()] = f
		}
	})
}

// The differences, applied one after the other, end where a fresh rendering does.
func TestDifferencesEqualFreshRendering(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		lines := map[string]string{} // rule -> actions, as the switch would hold it
		have := map[flowKey]Flow{}
		for _, f := range rapid.SliceOfN(randomState(), 1, 6).Draw(t, "states") {
			want := f.Flows()
			for _, line := range changes(have, want) {
				if rule, ok := strings.CutPrefix(line, "delete_strict "); ok {
					delete(lines, rule)
					continue
				}
				rule, actions, _ := strings.Cut(strings.TrimPrefix(line, "add "), " actions=")
				lines[strings.Replace(rule, fmt.Sprintf("cookie=%#x,", Cookie), "", 1)] = actions
			}
			have = map[flowKey]Flow{}
			fresh := map[string]string{}
			for _, fl := range want {
				have[fl.key()] = fl
				fresh[fmt.Sprintf("table=%d,%s", fl.Table, fl.rule())] = fl.Actions
			}
			if diff := cmp.Diff(fresh, lines); diff != "" {
				t.Fatalf("(-fresh +by difference):\n%s", diff)
			}
		}
	})
}
