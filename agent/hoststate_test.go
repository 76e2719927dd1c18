package agent

import (
	"context"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/socketplane/socketplane/agent/firewall"
)

// TestFirewallRules: the hosts are those of the store, this one and the dead too;
// before the store has told them there are none.
func TestFirewallRules(t *testing.T) {
	h := newTestHost(t)
	h.ConsulPorts = []firewall.Port{{Proto: unix.IPPROTO_TCP, Number: 8300}}
	h.converge()
	r := h.firewall.Rules()
	want := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")}
	if !slices.Equal(r.Hosts, want) || r.Underlay != "eth0" || !slices.Equal(r.Consul, h.ConsulPorts) || r.GatewayPrefix != "spg" || r.EndpointPrefix != "spv" {
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
	if r := fresh.firewall.Rules(); r.Hosts != nil || r.Underlay != "eth0" {
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
	h.links.SetDockersBridges()
	h.converge()
	if got := h.nat.Bridges(); len(got) > 0 {
		t.Errorf("%q went, and are let pass", got)
	}
}
