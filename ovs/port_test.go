package ovs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestPorts(t *testing.T) {
	s, i := open(t)
	ctx := t.Context()
	i.AddVeth(t, "v1")
	p := Port{Name: "v1", Kind: KindEndpoint, VLAN: 7, IDs: map[string]string{"endpoint": "e1", "network": "foo", "ip": "10.6.0.2"}}
	gw := Port{Name: "gw1", Kind: KindGateway, VLAN: 7, MAC: "02:42:0a:06:00:01", MTU: 1450, IDs: map[string]string{"network": "foo"}}
	for range 2 { // twice is once
		for _, port := range []*Port{&p, &gw} {
			n, err := s.AddPort(ctx, *port)
			if err != nil {
				t.Fatal(err)
			}
			if port.OFPort != 0 && port.OFPort != n {
				t.Errorf("port %s moved from %d to %d", port.Name, port.OFPort, n)
			}
			port.OFPort = n
		}
	}
	checkPorts(t, s, gw, p)
	if out := i.Run(t, "ip", "link", "show", "gw1"); !strings.Contains(out, "mtu 1450") || !strings.Contains(out, gw.MAC) {
		t.Errorf("the gateway's interface:\n%s", out)
	}

	// By difference; ids of others stay.
	vsctl(t, i, "set", "Port", "v1", "external_ids:other=1")
	eventually(t, "the cache has it", func() bool {
		port, _ := cachedPort(current(s), "v1")
		return port.ExternalIDs["other"] == "1"
	})
	p.VLAN, p.IDs["ip"] = 8, "10.6.0.3"
	if _, err := s.AddPort(ctx, p); err != nil {
		t.Fatal(err)
	}
	checkPorts(t, s, gw, p)
	if out := vsctl(t, i, "get", "Port", "v1", "external_ids:other"); strings.TrimSpace(out) != `"1"` {
		t.Errorf("another's external id became %s", out)
	}

	for range 2 {
		if err := s.RemovePort(ctx, "v1"); err != nil {
			t.Fatal(err)
		}
	}
	checkPorts(t, s, gw)
}

func checkPorts(t *testing.T, s *Switch, want ...Port) {
	t.Helper()
	got, err := s.Ports(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("ports (-want +got):\n%s", diff)
	}
}

func TestPortThatCannotBeOpened(t *testing.T) {
	s, i := open(t)
	before := i.Run(t, "ovs-vsctl", "--db="+i.Socket(), "show")
	_, err := s.AddPort(t.Context(), Port{Name: "nosuch", Kind: KindEndpoint})
	if err == nil || !strings.Contains(err.Error(), "No such device") || !strings.Contains(err.Error(), `"nosuch"`) {
		t.Errorf("got %v", err)
	}
	if diff := cmp.Diff(before, i.Run(t, "ovs-vsctl", "--db="+i.Socket(), "show")); diff != "" {
		t.Errorf("something was left behind:\n%s", diff)
	}
	// The name is usable once the interface exists.
	i.AddVeth(t, "nosuch")
	if _, err := s.AddPort(t.Context(), Port{Name: "nosuch", Kind: KindEndpoint}); err != nil {
		t.Error(err)
	}
}

func TestPortIsTakenAwayWhenTheCallerGivesUp(t *testing.T) {
	s, i := open(t)
	i.AddVeth(t, "v1")
	i.KillSwitch(t) // nobody opens the port now
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := s.AddPort(ctx, Port{Name: "v1", Kind: KindEndpoint}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	checkPorts(t, s)
}

func TestForeignPorts(t *testing.T) {
	s, i := open(t)
	i.AddVeth(t, "v1")
	i.AddVeth(t, "v2")
	vsctl(t, i, "--no-wait", "add-port", DefaultBridge, "v1")
	vsctl(t, i, "add-br", "other", "--", "set", "Bridge", "other", "datapath_type=netdev", "--",
		"add-port", "other", "v2", "--", "set", "Port", "v2", "external_ids:socketplane_kind=endpoint")
	eventually(t, "the cache has the ports", func() bool {
		p, _ := cachedPort(current(s), "v2")
		return p != nil
	})
	for _, name := range []string{"v1", "v2", DefaultBridge} {
		if _, err := s.AddPort(t.Context(), Port{Name: name, Kind: KindEndpoint}); !errors.Is(err, ErrForeign) {
			t.Errorf("add %s: %v", name, err)
		}
	}
	for _, name := range []string{"v1", "v2", DefaultBridge} {
		if err := s.RemovePort(t.Context(), name); !errors.Is(err, ErrForeign) {
			t.Errorf("remove %s: %v", name, err)
		}
	}
	checkPorts(t, s)
}

func TestBadPorts(t *testing.T) {
	for _, p := range []Port{
		{Name: "", Kind: KindEndpoint},
		{Name: "sixteen-bytes-xx", Kind: KindEndpoint},
		{Name: "v", Kind: KindTunnel},
		{Name: "v", Kind: KindEndpoint, VLAN: 4095},
		{Name: "v", Kind: KindGateway, MAC: "ff:ff:ff:ff:ff:ff"},
	} {
		if p.check() == nil {
			t.Errorf("%+v was accepted", p)
		}
	}
}

func TestConcurrentPortsHaveNumbersOfTheirOwn(t *testing.T) {
	s, i := open(t)
	const ports = 16
	for n := range ports {
		i.AddVeth(t, fmt.Sprintf("v%d", n))
	}
	var (
		wg  sync.WaitGroup
		got = make([]int, 2*ports)
	)
	for n := range 2 * ports { // each name twice at once
		wg.Go(func() {
			var err error
			if got[n], err = s.AddPort(t.Context(), Port{Name: fmt.Sprintf("v%d", n%ports), Kind: KindEndpoint}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if diff := cmp.Diff(got[:ports], got[ports:]); diff != "" {
		t.Errorf("the same port, asked for twice:\n%s", diff)
	}
	slices.Sort(got)
	for n, ofport := range slices.Compact(got) {
		if ofport != n+1 {
			t.Fatalf("numbers are not the smallest free: %v", got)
		}
	}
}

func TestNumberIsNotReusedWhileFlowsNameIt(t *testing.T) {
	s, i := open(t)
	i.AddVeth(t, "v1")
	i.AddVeth(t, "v2")
	add := func(name string) int {
		n, err := s.AddPort(t.Context(), Port{Name: name, Kind: KindEndpoint})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	first := add("v1")
	if err := s.SetForwarding(t.Context(), Forwarding{Segments: []Segment{{
		VNI: 100, Subnet: prefix("10.6.0.0/16"), Local: []Local{{OFPort: first, MAC: mac(2), IP: addr("10.6.0.2")}},
	}}}); err != nil {
		t.Fatal(err)
	}
	if err := s.RemovePort(t.Context(), "v1"); err != nil {
		t.Fatal(err)
	}
	if n := add("v2"); n == first {
		t.Errorf("number %d leads to another endpoint now", n)
	}
	if err := s.SetForwarding(t.Context(), Forwarding{}); err != nil {
		t.Fatal(err)
	}
	if n := add("v1"); n != first {
		t.Errorf("number %d is free and was not taken, but %d", first, n)
	}
}

func BenchmarkAddPort(b *testing.B) {
	s, i := open(b)
	for n := range 50 {
		i.AddVeth(b, fmt.Sprintf("v%d", n))
		if _, err := s.AddPort(b.Context(), Port{Name: fmt.Sprintf("v%d", n), Kind: KindEndpoint}); err != nil {
			b.Fatal(err)
		}
	}
	i.AddVeth(b, "bench")
	p := Port{Name: "bench", Kind: KindEndpoint, VLAN: 7, IDs: map[string]string{"endpoint": "e", "network": "n"}}
	b.ResetTimer()
	for b.Loop() {
		if _, err := s.AddPort(b.Context(), p); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := s.RemovePort(b.Context(), "bench"); err != nil {
			b.Fatal(err)
		}
		if err := s.awaitBridge(b.Context()); err != nil { // the removal is done
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
