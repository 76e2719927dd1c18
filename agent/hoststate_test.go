package agent

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/socketplane/socketplane/agent/agenttest"
	"github.com/socketplane/socketplane/agent/firewall"
	"github.com/socketplane/socketplane/agent/link"
)

// TestFirewallRules: the hosts are those of the store, this one and the dead too;
// before the store has told them there are none.
func TestFirewallRules(t *testing.T) {
	h := newTestHost(t)
	h.ConsulPorts = []firewall.Port{{Proto: unix.IPPROTO_TCP, Number: 8300}}
	h.converge()
	r := h.firewall.Rules()
	want := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")}
	if !slices.Equal(r.Hosts, want) || !slices.Equal(r.Underlay, []string{"eth0"}) || !slices.Equal(r.Consul, h.ConsulPorts) || r.GatewayPrefix != "spg" || r.EndpointPrefix != "spv" {
		t.Errorf("got %+v", r)
	}

	// A later life leaves what it finds, until it knows better.
	h.start()
	if err := h.closeClusterPorts(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r := h.firewall.Rules(); !slices.Equal(r.Hosts, want) {
		t.Errorf("hosts that were known are forgotten: %+v", r)
	}

	// The first life on a host closes the ports before it knows the hosts.
	fresh := newTestHost(t)
	fresh.start()
	fresh.firewall.Reset()
	if err := fresh.closeClusterPorts(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r := fresh.firewall.Rules(); r.Hosts != nil || !slices.Equal(r.Underlay, []string{"eth0"}) {
		t.Errorf("before the store has answered: %+v", r)
	}
}

// TestFirewallKeepsAddressInForce: who writes another tunnel address into a host's
// record does not open that host's ports to the containers here.
func TestFirewallKeepsAddressInForce(t *testing.T) {
	h := hostile(t)
	h.writeHost(peerID, "h2", "192.0.2.2", 1500)
	h.settle()
	h.writeHost(peerID, "h2", "192.0.2.255", 1500) // no host's: its tunnel stays
	h.converge()
	if r := h.firewall.Rules(); !slices.Contains(r.Hosts, netip.MustParseAddr("192.0.2.2")) {
		t.Errorf("hosts: %v", r.Hosts)
	}
}

// TestContainerIsNoHost: a record with the address of a container, on whatever bridge
// of this host, does not make that container a host.
func TestContainerIsNoHost(t *testing.T) {
	h := hostile(t)
	docker := link.Subnet{Interface: "docker0", Prefix: netip.MustParsePrefix("172.17.0.0/16")}
	uplink := link.Subnet{Interface: "eth0", Prefix: netip.MustParsePrefix("192.0.2.0/24")}
	has := func(addr string) bool { return slices.Contains(h.firewall.Rules().Hosts, netip.MustParseAddr(addr)) }

	h.links.SetSubnets(uplink, docker)
	h.writeHost(thiefID, "thief", "172.17.0.2", 1500)
	h.converge()
	if has("172.17.0.2") || strings.Contains(h.data(), "172.17.0.2") {
		t.Errorf("a container on docker0 is a host: %v\n%s", h.firewall.Rules().Hosts, h.data())
	}
	h.named(thiefID, "172.17.0.2", "interface docker0", "uplinks")

	// A container on a network of the cluster, whose gateway is an interface too.
	h.mustAttach("c1", "foo", "/ns/1")
	h.writeHost(thiefID, "thief", "10.6.0.2", 1500)
	h.converge()
	if has("10.6.0.2") {
		t.Errorf("a container of ours is a host: %v", h.firewall.Rules().Hosts)
	}
	h.named(thiefID, "10.6.0.2", `network "foo"`)

	// The bridge comes later than the record: Docker starts after the agent.
	h.writeHost(thiefID, "thief", "172.18.0.2", 1500)
	h.converge()
	if !has("172.18.0.2") {
		t.Fatalf("not believed, without a reason: %v; %s", h.firewall.Rules().Hosts, h.problems())
	}
	h.links.SetSubnets(uplink, docker, link.Subnet{Interface: "br-0123456789ab", Prefix: netip.MustParsePrefix("172.18.0.0/16")})
	if err := h.restoreHost(t.Context()); err != nil { // as when the kernel tells
		t.Fatal(err)
	}
	if has("172.18.0.2") {
		t.Errorf("a container on a bridge that came later is a host: %v", h.firewall.Rules().Hosts)
	}
	h.converge()
	h.named(thiefID, "172.18.0.2", "interface br-0123456789ab")

	// Root of the host says that hosts are there.
	h.Uplinks = []string{"br-0123456789ab"}
	h.converge()
	if !has("172.18.0.2") {
		t.Errorf("hosts on an interface that the settings name: %v", h.firewall.Rules().Hosts)
	}
	h.well()
}

// TestSilentUnderlay: packets do not come by a dummy that has the tunnel address. Those
// of hosts that join come by the uplinks, and status says when there is none.
func TestSilentUnderlay(t *testing.T) {
	h := newTestHost(t)
	underlay := func() []string {
		t.Helper()
		h.converge()
		return h.firewall.Rules().Underlay
	}
	h.links.SetUplinks(link.Uplinks{Underlay: "dummy0", Silent: true, Names: []string{"dummy0", "eth0", "eth1"}})
	if got := underlay(); !slices.Equal(got, []string{"eth0", "eth1"}) {
		t.Errorf("packets to the tunnel address come by %q", got)
	}
	h.well()
	st, err := h.Status(t.Context())
	if err != nil || !slices.Equal(st.Uplinks, []string{"dummy0", "eth0", "eth1"}) {
		t.Errorf("status: %q, %v", st.Uplinks, err)
	}
	h.links.SetUplinks(link.Uplinks{Underlay: "dummy0", Silent: true, Names: []string{"dummy0"}})
	if got := underlay(); len(got) != 0 {
		t.Errorf("packets come by %q", got)
	}
	h.named("dummy0", "192.0.2.1", "uplinks in section [network]")
	h.Uplinks = []string{"veth7"}
	if got := underlay(); !slices.Equal(got, []string{"veth7"}) {
		t.Errorf("with the settings packets come by %q", got)
	}
	h.well()
}

// TestRestoreWithoutStore: what is taken from the host comes back although the
// store does not answer.
func TestRestoreWithoutStore(t *testing.T) {
	h := newTestHost(t)
	h.mustAttach("c1", "foo", "/ns/1")
	h.settle()
	before := h.links.Gateways()
	if before == 0 {
		t.Fatal("no gateway to lose")
	}
	h.store.SetAway(true)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- h.watchHost(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	for range 2 {
		h.links.LoseGateways()
		eventually(t, "the gateway is back", func() bool { return h.links.Gateways() == before })
	}
}

// TestPacketFilterIsCompared: a change of an endpoint goes by what was set; what
// others took from the packet filter comes back when the kernel tells, and with the
// slow timer.
func TestPacketFilterIsCompared(t *testing.T) {
	h := newTestHost(t)
	h.mustAttach("c1", "foo", "/ns/1")
	h.converge()
	want := h.nat.State()
	if len(want) == 0 {
		t.Fatal("no rule to lose")
	}
	there := func(what string) {
		t.Helper()
		if diff := cmp.Diff(want, h.nat.State()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	h.nat.Lose()
	h.calls.Reset()
	if err := h.Agent.converge(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if slices.Contains(h.calls.Names(), "NAT.Compare") {
		t.Error("a pass that need not compare compares")
	}
	h.calls.Fail("NAT.Compare", agenttest.ErrFailed)
	if err := h.Agent.converge(t.Context(), true); err == nil {
		t.Error("a comparison that fails is not told")
	}
	h.calls.Fail("NAT.Compare", nil)
	if err := h.Agent.converge(t.Context(), false); err != nil { // what failed is made up
		t.Fatal(err)
	}
	there("after the slow timer")

	h.nat.Lose()
	if err := h.restoreHost(t.Context()); err != nil {
		t.Fatal(err)
	}
	there("after the kernel told")
}

// TestDockersBridges: where FORWARD drops because of the agent, Docker's bridges whose
// packet filter is in nftables are let pass.
func TestDockersBridges(t *testing.T) {
	h := newTestHost(t)
	h.links.SetDockersBridges("docker0", "-x", "br-1")
	h.converge()
	if got := h.nat.Bridges(); len(got) > 0 {
		t.Errorf("the policy is somebody else's, and %q are let pass", got)
	}
	h.DenyForward = true
	h.converge()
	if got := h.nat.Bridges(); !slices.Equal(got, []string{"docker0", "br-1"}) {
		t.Errorf("%q are let pass", got)
	}
	// The host's own uplink may be a bridge that Docker is told to use as well.
	h.links.SetDockersBridges("br0", "br-1")
	h.links.SetUplinks(link.Uplinks{Underlay: "br0", Names: []string{"br0"}})
	h.converge()
	if got := h.nat.Bridges(); !slices.Equal(got, []string{"br-1"}) {
		t.Errorf("%q are let pass, of which br0 is an uplink", got)
	}
	h.Uplinks = []string{"br-1"} // by this host's settings
	h.converge()
	if got := h.nat.Bridges(); len(got) > 0 {
		t.Errorf("%q are let pass, and are uplinks", got)
	}
	h.links.SetDockersBridges()
	h.converge()
	if got := h.nat.Bridges(); len(got) > 0 {
		t.Errorf("%q went, and are let pass", got)
	}
}
