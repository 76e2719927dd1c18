package agent

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/cluster"
	"github.com/socketplane/socketplane/agent/state"
)

// manyHosts shows the agent n other hosts.
func (h *testHost) manyHosts(n int) {
	h.t.Helper()
	snap := state.Snapshot{Index: uint64(n)}
	for i := range n {
		snap.Entries = append(snap.Entries, hostEntry(i, 1500))
	}
	if _, errs := h.view.set(partHosts, snap); len(errs) > 0 {
		h.t.Fatal(errs)
	}
}

func hostID(i int) string { return fmt.Sprintf("33333333-3333-4333-8333-%012d", i) }

func hostEntry(i, mtu int) state.Entry {
	return state.Entry{Key: cluster.HostsPrefix + hostID(i), Version: 1, Session: "s", Value: fmt.Appendf(nil,
		`{"version":1,"id":%q,"name":"host-%d","vtep":"198.18.%d.%d","underlay_mtu":%d,"routes":null,"agent":"","datapath":"netdev"}`,
		hostID(i), i, 1+i/250, 1+i%250, mtu)}
}

// quickest is the least time that f takes: a machine that is busy does not count.
func quickest(f func()) time.Duration {
	least := time.Hour
	for range 300 {
		start := time.Now()
		f()
		least = min(least, time.Since(start))
	}
	return least
}

// TestListingDoesNotGrowWithTheHosts: what this host's endpoints cost to list depends
// on how many they are, not on how many hosts there are.
func TestListingDoesNotGrowWithTheHosts(t *testing.T) {
	h := newTestHost(t)
	h.putLocals(50)
	list := func() {
		if all, err := h.Endpoints(t.Context()); err != nil || len(all) != 50 || all[7].MTU != 1450 {
			t.Fatalf("%d endpoints, %v", len(all), err)
		}
	}
	name := func() { h.hostName(hostID(3)) }
	h.manyHosts(4)
	fewList, fewName := quickest(list), quickest(name)
	h.manyHosts(2000)
	if many := quickest(list); many > 4*fewList {
		t.Errorf("50 endpoints take %v among 2,000 hosts, and %v among 4", many, fewList)
	}
	if many := quickest(name); many > 4*fewName+time.Microsecond {
		t.Errorf("the name of a host takes %v among 2,000 hosts, and %v among 4", many, fewName)
	}
}

// putLocals puts attached endpoints into the table.
func (h *testHost) putLocals(n int) {
	for i := range n {
		ip := netip.AddrFrom4([4]byte{10, 6, 1, byte(i)})
		h.table.put(local{Network: "foo", Port: fmt.Sprintf("p%d", i), OFPort: 1000 + i, endpoint: endpoint{
			ID: fmt.Sprintf("c%03d", i), IP: ip, MAC: macOf(ip), IfName: "eth0", Source: api.SourceDocker, Attached: true,
		}})
	}
}

// TestMTUFollows: the MTU follows each change of the hosts, and of this one.
func TestMTUFollows(t *testing.T) {
	v := newView(selfID)
	now := time.Now()
	v.now = func() time.Time { return now }
	self := cluster.Host{ID: selfID, VTEP: netip.MustParseAddr("192.0.2.1"), MTU: 1500}
	index := uint64(0)
	set := func(entries ...state.Entry) {
		index++
		v.set(partHosts, state.Snapshot{Index: index, Entries: entries})
	}
	want := func(what string, mtu int) {
		t.Helper()
		for range 2 {
			if got := v.mtu(self); got != mtu {
				t.Errorf("%s: %d, want %d", what, got, mtu)
			}
		}
	}
	want("alone", 1450)
	set(hostEntry(1, 9000), hostEntry(2, 1400))
	want("a smaller one", 1350)
	self.MTU = 1300
	want("this one is smaller", 1250)
	self.VTEP = netip.MustParseAddr("2001:db8::1")
	want("over IPv6", 1230)
	self.VTEP, self.MTU = netip.MustParseAddr("192.0.2.1"), 1500
	set(hostEntry(1, 9000), hostEntry(2, 1420))
	want("it changed", 1370)
	set(hostEntry(1, 9000))
	want("its record is gone, and it may come back", 1370)
	now = now.Add(time.Hour)
	v.expire()
	want("it is gone", 1450)
}

// TestNamesFollow: so do the names of the hosts.
func TestNamesFollow(t *testing.T) {
	h := newTestHost(t)
	want := func(what string, names ...string) {
		t.Helper()
		for i, name := range names {
			if got := h.hostName(hostID(i)); got != name {
				t.Errorf("%s: host %d is %q, want %q", what, i, got, name)
			}
		}
	}
	rename := func(names ...string) {
		snap := state.Snapshot{Index: 1}
		for i, name := range names {
			e := hostEntry(i, 1500)
			e.Value = fmt.Appendf(nil, `{"version":1,"id":%q,"name":%q,"vtep":"198.18.0.%d","underlay_mtu":1500,"routes":null,"agent":"","datapath":""}`, hostID(i), name, i+1)
			snap.Entries = append(snap.Entries, e)
		}
		h.view.set(partHosts, snap)
	}
	rename("a", "b")
	want("two", "a", "b", hostID(2))
	rename("a", "a", "h1")
	want("namesakes", "a (33333333)", "a (33333333)", "h1 (33333333)")
	rename("a", "b", "c")
	want("again", "a", "b", "c")
}
