package ovs

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/socketplane/socketplane/ovs/ovstest"
)

// unlike says where the switch differs from f, in ovs-ofctl's own judgement.
func unlike(t interface{ Fatal(...any) }, s *Switch, f Forwarding) string {
	out, err := s.runOFCtl(bg, text(f), "diff-flows", s.controlTarget(), "/dev/stdin")
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestForwardingByDifference(t *testing.T) {
	s, i := open(t)
	if err := s.SetForwarding(t.Context(), golden()); err != nil {
		t.Fatal(err)
	}
	if diff := unlike(t, s, golden()); diff != "" {
		t.Fatalf("the switch differs:\n%s", diff)
	}
	// One switch for all rounds: each state is applied to what the last one left.
	rapid.Check(t, func(r *rapid.T) {
		f := randomState().Draw(r, "state")
		if err := s.SetForwarding(bg, f); err != nil {
			r.Fatal(err)
		}
		if diff := unlike(r, s, f); diff != "" {
			r.Fatalf("the switch differs:\n%s", diff)
		}
	})
	if err := s.SetForwarding(t.Context(), golden()); err != nil {
		t.Fatal(err)
	}
	byDifference := dump(t, i)
	s.flows.forget()
	if err := s.SetForwarding(t.Context(), golden()); err != nil {
		t.Fatal(err)
	}
	equalFlows(t, byDifference, dump(t, i))
}

func TestResyncKeepsForeignFlows(t *testing.T) {
	s, i := open(t)
	if err := s.SetForwarding(t.Context(), golden()); err != nil {
		t.Fatal(err)
	}
	want := dump(t, i)
	target := s.controlTarget()
	ofctl := func(args ...string) {
		i.Run(t, "ovs-ofctl", append([]string{"-O", "OpenFlow14"}, args...)...)
	}
	ofctl("add-flow", target, "table=20,cookie=0x9,priority=7,actions=drop")
	ofctl("add-flow", target, "table=4,priority=7,actions=drop")
	withForeign := dump(t, i)
	// Flows of ours that are too many, missing and different.
	ofctl("add-flow", target, fmt.Sprintf("table=4,cookie=%#x,priority=9,in_port=77,actions=drop", Cookie))
	ofctl("--strict", "del-flows", target, "table=63,priority=0")
	ofctl("mod-flows", target, "table=5,reg0=100,actions=drop")
	if err := s.Resync(t.Context(), golden()); err != nil {
		t.Fatal(err)
	}
	equalFlows(t, withForeign, dump(t, i))
	ofctl("del-flows", target, "table=20")
	ofctl("--strict", "del-flows", target, "table=4,priority=7")
	equalFlows(t, want, dump(t, i))
}

func TestConcurrentForwarding(t *testing.T) {
	s, _ := open(t)
	var wg sync.WaitGroup
	for n := range 8 {
		wg.Go(func() {
			if err := s.SetForwarding(t.Context(), small(1+n, 20)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if err := s.SetForwarding(t.Context(), golden()); err != nil {
		t.Fatal(err)
	}
	if diff := unlike(t, s, golden()); diff != "" {
		t.Errorf("the switch differs:\n%s", diff)
	}
}

func TestForwardingWithoutSwitch(t *testing.T) {
	s, i := open(t)
	i.KillSwitch(t)
	if err := s.SetForwarding(t.Context(), golden()); err == nil || !strings.Contains(err.Error(), DefaultBridge) {
		t.Errorf("got %v", err)
	}
}

// large is a state with n remote endpoints in one network, and 130 local ones.
func large(n int) Forwarding {
	f := Forwarding{Self: addr("198.18.0.1")}
	for p := range 16 {
		f.Peers = append(f.Peers, Peer{ID: fmt.Sprint(p), VTEP: addr(fmt.Sprintf("198.18.1.%d", p)), OFPort: 1000 + p})
	}
	g := Segment{VNI: 100, Subnet: prefix("10.6.0.0/16"), Gateway: addr("10.6.0.1"), GatewayMAC: mac(1), GatewayPort: 999}
	ep := func(n int) string { return fmt.Sprintf("02:42:0a:06:%02x:%02x", n>>8, n&0xff) }
	ip := func(n int) string { return fmt.Sprintf("10.6.%d.%d", n>>8, n&0xff) }
	for l := range 130 {
		g.Local = append(g.Local, Local{OFPort: 1 + l, MAC: ep(2 + l), IP: addr(ip(2 + l))})
	}
	for r := range n {
		g.Remote = append(g.Remote, Remote{MAC: ep(1000 + r), IP: addr(ip(1000 + r)), OFPort: 1000 + r%16})
	}
	f.Segments = []Segment{g}
	return f
}

func BenchmarkForwarding(b *testing.B) {
	var s *Switch
	var i *ovstest.Instance
	if s, i = open(b); i == nil {
		b.Fatal("no instance")
	}
	for _, size := range []int{0, 2000, 20000} {
		f, more := large(size), large(size+1)
		for name, apply := range map[string]func(Forwarding) error{
			"difference": func(f Forwarding) error { return s.SetForwarding(bg, f) },
			"resync":     func(f Forwarding) error { return s.Resync(bg, f) },
		} {
			b.Run(fmt.Sprintf("%s-%d", name, size), func(b *testing.B) {
				if err := s.SetForwarding(bg, f); err != nil {
					b.Fatal(err)
				}
				n := 0
				for b.Loop() {
					n++
					state := f
					if n%2 == 1 {
						state = more
					}
					if err := apply(state); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
