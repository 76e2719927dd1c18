package agent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/ovs"
)

// TestManyAtOnce attaches, detaches and releases a hundred endpoints on several
// networks at once, with the loops running, and then looks whether everything
// agrees.
func TestManyAtOnce(t *testing.T) {
	h := newTestHost(t)
	empty := h.whole()
	nets := []string{"foo", "n1", "n2", "n3"}
	for i, n := range nets[1:] {
		if _, err := h.CreateNetwork(t.Context(), api.CreateNetworkRequest{ID: n, Subnet: fmt.Sprintf("10.%d.0.0/24", 20+i)}); err != nil {
			t.Fatal(err)
		}
	}
	h.start()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx) }()
	<-h.known

	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			id, n := fmt.Sprintf("c%d", i), nets[i%len(nets)]
			attach := func(round int) {
				_, err := h.Attach(ctx, api.AttachRequest{ID: id, Network: n, NetNS: fmt.Sprintf("/ns/%d-%d", i, round), Source: api.SourceDocker})
				if err != nil {
					t.Errorf("attach %s: %v", id, err)
				}
			}
			attach(0)
			if err := h.Detach(ctx, id); err != nil {
				t.Errorf("detach %s: %v", id, err)
			}
			if i%3 == 0 {
				attach(1)
			}
			if i%5 == 0 {
				if err := h.Release(ctx, id); err != nil {
					t.Errorf("release %s: %v", id, err)
				}
			}
		})
	}
	wg.Wait()
	eventually(t, "what the calls left behind is done", func() bool {
		return !slices.ContainsFunc(h.table.all(), func(l local) bool { return l.Dirty || l.Releasing })
	})
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	before := h.whole()
	h.converge()
	if diff := cmp.Diff(before, h.whole()); diff != "" {
		t.Errorf("the calls, and what they left behind, had left something to a pass (-before +after):\n%s", diff)
	}
	h.wantAgreement()
	for i := range 100 {
		if err := h.Release(t.Context(), fmt.Sprintf("c%d", i)); err != nil {
			t.Error(err)
		}
	}
	for _, n := range append(nets[1:], "default") {
		if err := h.DeleteNetwork(t.Context(), n); err != nil && api.CodeOf(err) != api.CodeNotFound {
			t.Error(err)
		}
	}
	h.converge()
	h.wantWhole("all released", empty)
}

// wantAgreement compares table, switch, links, packet filter and store.
func (h *testHost) wantAgreement() {
	h.t.Helper()
	ports, _ := h.sw.Ports(h.t.Context())
	there := map[string]ovs.Port{}
	for _, p := range ports {
		there[p.Name] = p
	}
	ips, used := map[netip.Addr]string{}, map[string]int{}
	attached := 0
	for _, l := range h.table.all() {
		if l.Releasing || l.Dirty {
			h.t.Errorf("%s is not finished: %+v", l.ID, l)
		}
		if other, taken := ips[l.IP]; taken {
			h.t.Errorf("%s and %s both have %s", l.ID, other, l.IP)
		}
		ips[l.IP] = l.ID
		if p, ok := there[l.Port]; ok != l.Attached || p.OFPort != l.OFPort {
			h.t.Errorf("%s: attached %t, port there %t, %d and %d", l.ID, l.Attached, ok, l.OFPort, p.OFPort)
		}
		if l.Attached {
			attached++
			used[l.Network]++
		}
	}
	if n := len(h.links.State()); n != attached {
		h.t.Errorf("%d attached and %d veths", attached, n)
	}
	if n := len(h.nat.State()); n != len(used) {
		h.t.Errorf("%d networks used and %d in the packet filter", len(used), n)
	}
	local := 0
	for _, s := range h.sw.Forwarding().Segments {
		if s.GatewayPort == 0 {
			h.t.Errorf("network %s has no gateway in the flows", s.Subnet)
		}
		local += len(s.Local)
		list, err := h.Addresses.List(h.t.Context(), s.Subnet)
		if err != nil {
			h.t.Error(err)
		}
		for _, al := range list {
			if al.Owner != h.owner(ips[al.Addr]) {
				h.t.Errorf("%s is %s's in the store and %s's here", al.Addr, al.Owner, ips[al.Addr])
			}
		}
	}
	if local != attached {
		h.t.Errorf("%d attached and %d in the flows", attached, local)
	}
}

// TestFirstAndLastAtOnce: the last endpoint of a network leaves while the next
// one comes. It must find a gateway.
func TestFirstAndLastAtOnce(t *testing.T) {
	h := newTestHost(t)
	h.mustAttach("a", "foo", "/ns/a")
	for i := range 200 {
		id, last := fmt.Sprintf("b%d", i%2), fmt.Sprintf("b%d", (i+1)%2)
		if i == 0 {
			last = "a"
		}
		var wg sync.WaitGroup
		wg.Go(func() { _ = h.Detach(t.Context(), last) })
		wg.Go(func() { h.mustAttach(id, "foo", fmt.Sprintf("/ns/%d", i)) })
		wg.Wait()
		h.settle()
		h.wantAgreement()
		if t.Failed() {
			t.Fatalf("round %d", i)
		}
	}
}

func TestNetworkDeletedWhileAttaching(t *testing.T) {
	h := newTestHost(t)
	empty := h.whole()
	// The view does not know yet that the network went, and came again with
	// the same subnet: the address that was taken of the first is not ours.
	release := h.calls.Block("Store.Txn")
	result := make(chan error, 1)
	go func() {
		_, err := h.Attach(t.Context(), api.AttachRequest{ID: "c1", Network: "foo", NetNS: "/ns/1"})
		result <- err
	}()
	eventually(t, "the publish", func() bool { return slices.Contains(h.calls.Names(), "Store.Txn") })
	other := newManager(h)
	if err := other.Delete(t.Context(), "foo"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := other.Create(t.Context(), network.Spec{Name: "foo", Subnet: netip.MustParsePrefix("10.6.0.0/16")}); err != nil {
		t.Fatal(err)
	}
	release()
	if err := <-result; err != nil {
		t.Fatal(err)
	}
	list, err := h.Addresses.List(t.Context(), netip.MustParsePrefix("10.6.0.0/16"))
	if err != nil || len(list) != 1 || list[0].Owner != h.owner("c1") {
		t.Errorf("the new network's addresses: %v, %v", list, err)
	}
	if err := h.Release(t.Context(), "c1"); err != nil {
		t.Fatal(err)
	}

	// And one that does not come again.
	release = h.calls.Block("Store.Txn")
	h.calls.Reset()
	release()
	release = h.calls.Block("Store.Txn")
	go func() {
		_, err := h.Attach(t.Context(), api.AttachRequest{ID: "c1", Network: "foo", NetNS: "/ns/1"})
		result <- err
	}()
	eventually(t, "the publish", func() bool { return slices.Contains(h.calls.Names(), "Store.Txn") })
	if err := other.Delete(t.Context(), "foo"); err != nil {
		t.Fatal(err)
	}
	release()
	wantCode(t, <-result, api.CodeNotFound, "foo")
	if _, err := h.CreateNetwork(t.Context(), api.CreateNetworkRequest{ID: "foo", Subnet: "10.6.0.0/16"}); err != nil {
		t.Fatal(err)
	}
	h.converge()
	h.wantWhole("taken back", empty)
}

// A network that Docker made went, and one of the name came that it did not make:
// removing the Docker network that stood for the first leaves the second, also
// while this host has not heard of it.
func TestDockersNetworkIsAnotherNow(t *testing.T) {
	h := newTestHost(t)
	n, err := h.CreateNetwork(t.Context(), api.CreateNetworkRequest{ID: "web", Subnet: "10.9.0.0/24", ByDocker: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Catalog.Delete(t.Context(), "web"); err != nil { // as another host does
		t.Fatal(err)
	}
	if _, _, err := h.Catalog.Create(t.Context(), network.Spec{Name: "web", Subnet: n.Subnet}); err != nil {
		t.Fatal(err)
	}
	if seen, err := h.Network(t.Context(), "web"); err != nil || !seen.ByDocker {
		t.Fatalf("this host has heard of it: %+v, %v", seen, err)
	}
	if err := h.DeleteDockersNetwork(t.Context(), "web", n.Subnet); api.CodeOf(err) != api.CodeInUse {
		t.Errorf("it is deleted: %v", err)
	}
	if _, err := h.Catalog.Get(t.Context(), "web"); err != nil {
		t.Error(err)
	}
}
