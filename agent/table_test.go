package agent

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/link"
	"github.com/socketplane/socketplane/agent/network"
)

// TestTableIndexes: whatever is put and removed, what the indexes give is what a look
// at every endpoint would, and nothing of those that went is left in them.
func TestTableIndexes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		table := newTable()
		ids := rapid.SampledFrom([]string{"a", "b", "c", "d", "e"})
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			id := ids.Draw(t, "id")
			if rapid.IntRange(0, 3).Draw(t, "remove") == 0 {
				table.remove(id)
				continue
			}
			l := local{Network: rapid.SampledFrom([]string{"foo", "bar"}).Draw(t, "network"), Releasing: rapid.Bool().Draw(t, "releasing")}
			l.ID, l.ContainerID = id, rapid.SampledFrom([]string{"", "x", "y"}).Draw(t, "container")
			if rapid.Bool().Draw(t, "publishes") {
				l.Ports = []api.PortMapping{port80}
			}
			table.put(l)
		}
		all := table.all()
		pick := func(of func(local) bool) []string {
			var found []string
			for _, l := range all {
				if of(l) {
					found = append(found, l.ID)
				}
			}
			return found
		}
		same := func(what string, want []string, list []local, ordered bool) {
			var got []string
			for _, l := range list {
				got = append(got, l.ID)
			}
			if !ordered {
				slices.Sort(want)
				slices.Sort(got)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("%s (-want +got):\n%s", what, diff)
			}
		}
		networks := map[string]bool{}
		for _, n := range []string{"foo", "bar"} {
			on := pick(func(l local) bool { return l.Network == n })
			same("on "+n, on, table.on(n), true)
			if len(on) > 0 {
				networks[n] = true
			}
		}
		if got := table.networks(); len(got) != len(networks) {
			t.Fatalf("networks %v, want %v", got, networks)
		}
		same("published", pick(func(l local) bool { return len(l.Ports) > 0 }), table.published(), false)
		for _, l := range all {
			same("siblings of "+l.ID, pick(func(s local) bool { return s.ID != l.ID && !s.Releasing && s.container() == l.container() }), table.siblings(l), false)
			if at, ok := table.atPort(link.HostName(l.ID)); !ok || at.ID != l.ID {
				t.Fatalf("at the port of %s: %q", l.ID, at.ID)
			}
		}
		for _, l := range all {
			table.remove(l.ID)
		}
		if n := len(table.byID) + len(table.byPort) + len(table.byNetwork) + len(table.byContainer) + len(table.publishing); n != 0 {
			t.Fatalf("%d entries left of an empty table: %+v", n, table)
		}
	})
}

// sizes are those of a host: how many endpoints it has.
var sizes = []int{500, 5000}

// perNetwork is how many endpoints are on a network in the benchmarks.
const perNetwork = 25

// fill gives a host endpoints, attached, each with a published port of its own.
func fill(b *testing.B, h *Agent, n int) {
	b.Helper()
	for i := range n {
		netID := fmt.Sprintf("n%d", i/perNetwork)
		l := local{Network: netID, OFPort: i + 100}
		l.ID, l.Attached = fmt.Sprintf("c%05d", i), true
		l.Port, l.IP = link.HostName(l.ID), netip.AddrFrom4([4]byte{10, byte(i / perNetwork >> 8), byte(i / perNetwork), byte(i%perNetwork + 2)})
		l.MAC = macOf(l.IP)
		l.Ports = []api.PortMapping{{Proto: api.ProtoTCP, HostPort: uint16(10000 + i), ContainerPort: 80}}
		h.table.put(l)
		if i%perNetwork == 0 {
			subnet := netip.PrefixFrom(l.IP, 24).Masked()
			h.segments.enter(network.Record{ID: netID, Subnet: subnet, Gateway: subnet.Addr().Next(), VLAN: 1, VNI: uint32(20000 + i)}, l.ID)
		}
	}
}

// bench runs f on hosts of several sizes.
func bench(b *testing.B, f func(a *Agent, n int)) {
	for _, n := range sizes {
		b.Run(fmt.Sprintf("endpoints=%d", n), func(b *testing.B) {
			a := &Agent{table: newTable(), segments: newSegments(), view: newView(selfID)}
			a.Switch = benchSwitch{}
			fill(b, a, n)
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				f(a, i%n)
				i++
			}
		})
	}
}

type benchSwitch struct{ Switch }

// BenchmarkTableOn: the endpoints of one network, as each publish and each network's
// flows ask for them.
func BenchmarkTableOn(b *testing.B) {
	bench(b, func(a *Agent, i int) { a.table.on(fmt.Sprintf("n%d", i/perNetwork)) })
}

// BenchmarkForwardingState: what one change of an endpoint makes of the table.
func BenchmarkForwardingState(b *testing.B) {
	bench(b, func(a *Agent, _ int) { a.forwardingState() })
}

// BenchmarkPublishedHere: what one change of a published port makes of the table.
func BenchmarkPublishedHere(b *testing.B) {
	bench(b, func(a *Agent, _ int) { a.publishedHere() })
}

// BenchmarkAtPort: what the end of an interface asks.
func BenchmarkAtPort(b *testing.B) {
	bench(b, func(a *Agent, i int) { a.attachedBy(link.HostName(fmt.Sprintf("c%05d", i))) })
}
