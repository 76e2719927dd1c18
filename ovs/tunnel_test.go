package ovs

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/socketplane/socketplane/ovs/ovstest"
)

func TestTunnelName(t *testing.T) {
	name := TunnelName("b7d5f1de-8ab6-4a40-9c50-3e0b6c8f3c11")
	if len(name) != 15 || !strings.HasPrefix(name, "vxlan-") || name == TunnelName("another") {
		t.Errorf("got %q", name)
	}
}

func TestTunnels(t *testing.T) {
	s, i := open(t)
	set := func(tunnels ...Tunnel) (map[string]int, error) { return s.SetTunnels(t.Context(), tunnels) }
	local := addr("198.18.0.1")
	a := Tunnel{Peer: "a", Remote: addr("198.18.0.2"), Local: local}
	b := Tunnel{Peer: "b", Remote: addr("198.18.0.3"), Local: local}
	c := Tunnel{Peer: "c", Remote: addr("198.18.0.4"), Local: local}
	first, err := set(a, b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]int{"a": 1, "b": 2}, map[string]int{"a": min(first["a"], first["b"]), "b": max(first["a"], first["b"])}); diff != "" {
		t.Errorf("numbers:\n%s", diff)
	}
	options := vsctl(t, i, "get", "Interface", TunnelName("a"), "type", "options")
	if want := "vxlan\n{key=flow, local_ip=\"198.18.0.1\", remote_ip=\"198.18.0.2\"}\n"; options != want {
		t.Errorf("got %s, want %s", options, want)
	}

	// A mark is added to a tunnel that is there, as after an upgrade.
	a.Mark = 0x1050
	if marked, err := set(a, b); err != nil || marked["a"] != first["a"] {
		t.Errorf("got %v, %v", marked, err)
	}
	if got := vsctl(t, i, "get", "Interface", TunnelName("a"), "options:egress_pkt_mark", "ofport"); got != fmt.Sprintf("\"4176\"\n%d\n", first["a"]) {
		t.Errorf("marked: %s", got)
	}

	// A port that is no tunnel, and one of another owner, are left alone.
	i.AddVeth(t, "v1")
	i.AddVeth(t, "v2")
	if _, err := s.AddPort(t.Context(), Port{Name: "v1", Kind: KindEndpoint}); err != nil {
		t.Fatal(err)
	}
	vsctl(t, i, "add-port", DefaultBridge, "v2")

	b.Remote = addr("198.18.0.5")
	second, err := set(b, c)
	if err != nil {
		t.Fatal(err)
	}
	if second["b"] != first["b"] || len(second) != 2 {
		t.Errorf("b moved from %v to %v", first, second)
	}
	var kept []string
	ports, err := s.Ports(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range ports {
		kept = append(kept, p.Kind+" "+p.IDs["peer"])
	}
	if len(kept) != 3 || !strings.Contains(vsctl(t, i, "list-ports", DefaultBridge), "v2") {
		t.Errorf("left: %v", kept)
	}

	// One that is wrong does not stop the others.
	vsctl(t, i, "add-port", DefaultBridge, TunnelName("stranger"), "--", "set", "Interface", TunnelName("stranger"), "type=internal")
	eventually(t, "the cache has the port", func() bool {
		p, _ := cachedPort(current(s), TunnelName("stranger"))
		return p != nil
	})
	got, err := set(
		a, b, c, Tunnel{Peer: "own", Remote: local, Local: local}, Tunnel{Peer: "d", Remote: c.Remote, Local: local},
		Tunnel{Peer: "six", Remote: addr("fd00::1"), Local: local}, Tunnel{Peer: "zero"},
		Tunnel{Peer: "stranger", Remote: addr("198.18.0.9"), Local: local},
	)
	if len(got) != 3 || err == nil || !errors.Is(err, ErrForeign) {
		t.Errorf("got %v, %v", got, err)
	}
	for _, peer := range []string{"own", "d", "six", "zero", "stranger"} {
		if !strings.Contains(err.Error(), `"`+peer+`"`) {
			t.Errorf("the error does not name %s: %v", peer, err)
		}
	}
	if got, err = set(); err != nil || len(got) != 0 {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestTunnelThatTheSwitchRefuses(t *testing.T) {
	s, i := open(t)
	// The switch takes one tunnel to an address; this one is another's.
	vsctl(t, i, "add-port", DefaultBridge, "other", "--", "set", "Interface", "other", "type=vxlan", "options:remote_ip=198.18.0.2", "options:key=flow")
	got, err := s.SetTunnels(t.Context(), []Tunnel{{Peer: "a", Remote: addr("198.18.0.2")}, {Peer: "b", Remote: addr("198.18.0.3")}})
	if err == nil || !strings.Contains(err.Error(), `peer "a"`) || len(got) != 1 || got["b"] == 0 {
		t.Errorf("got %v, %v", got, err)
	}
	vsctl(t, i, "del-port", "other")
	for _, peer := range []string{"a", "c"} { // then c in a's place, as after the reinstallation of a host
		got, err = s.SetTunnels(t.Context(), []Tunnel{{Peer: peer, Remote: addr("198.18.0.2")}, {Peer: "b", Remote: addr("198.18.0.3")}})
		if err != nil || len(got) != 2 {
			t.Errorf("got %v, %v", got, err)
		}
	}
}

// TestTunnelsWithoutDatabase: a database that goes away after the tunnels were
// written and before it has told their numbers has told nothing. A map without them
// would say that the switch has none, and their peers' flows would go.
func TestTunnelsWithoutDatabase(t *testing.T) {
	i := ovstest.Start(t)
	s := openOn(t, i, func(s *Switch) { s.sessionTimeout = 10 * time.Millisecond })
	tunnels := []Tunnel{{Peer: "a", Remote: addr("198.18.0.2")}, {Peer: "b", Remote: addr("198.18.0.3")}}
	before, err := s.SetTunnels(t.Context(), tunnels)
	if err != nil || len(before) != 2 {
		t.Fatalf("got %v, %v", before, err)
	}
	want, _ := acceptable(tunnels)
	i.KillDB(t)
	eventually(t, "the loss is noticed", func() bool { return !s.Connected() })
	if got, errs := s.awaitTunnels(t.Context(), want); got != nil || len(errs) != 2 || !errors.Is(errs[0], ErrUnavailable) {
		t.Errorf("without a database: %v, %v", got, errs)
	}
	if got, err := s.SetTunnels(t.Context(), tunnels); got != nil || !errors.Is(err, ErrUnavailable) {
		t.Errorf("without a database: %v, %v", got, err)
	}
	i.StartDB(t)
	awaitChanged(t, s)
	if got, err := s.SetTunnels(t.Context(), tunnels); err != nil || !maps.Equal(got, before) {
		t.Errorf("afterwards: %v, %v; had %v", got, err, before)
	}
	// Nor does a call that was given up tell of a tunnel that is not open yet.
	i.KillSwitch(t)
	ctx, cancel := context.WithCancel(t.Context())
	type result struct {
		ports map[string]int
		err   error
	}
	done := make(chan result, 1)
	go func() {
		got, err := s.SetTunnels(ctx, append(tunnels, Tunnel{Peer: "c", Remote: addr("198.18.0.4")}))
		done <- result{got, err}
	}()
	eventually(t, "the tunnel is written", func() bool { port, _ := cachedPort(current(s), TunnelName("c")); return port != nil })
	cancel()
	if r := <-done; r.ports != nil || !errors.Is(r.err, context.Canceled) {
		t.Errorf("given up: %v, %v", r.ports, r.err)
	}
}
