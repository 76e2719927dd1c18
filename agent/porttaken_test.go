package agent

import (
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/firewall"
	"github.com/socketplane/socketplane/agent/nat"
)

// TestPortTaken: an error says who has a port, and does not advise to end the agent.
func TestPortTaken(t *testing.T) {
	h := newTestHost(t)
	mdns := nat.Port{Proto: "udp", HostIP: netip.IPv4Unspecified(), HostPort: 5353}
	explain := func(e nat.PortTakenError) error { return h.explainPort(&e, local{}) }
	wantCode(t, explain(nat.PortTakenError{Port: mdns}), api.CodeConflict, "another program; choose another")
	wantCode(t, explain(nat.PortTakenError{Port: mdns, PID: 1, Program: "dnsmasq"}), api.CodeConflict, `the program "dnsmasq" (pid 1); choose another, or end that program`)
	wantCode(t, explain(nat.PortTakenError{Port: mdns, PID: os.Getpid(), Program: "socketplane"}), api.CodeConflict, "port 0.0.0.0:5353/udp of this host", "SocketPlane's agent itself", "mDNS", "choose another")
	other := nat.Port{Proto: "tcp", HostPort: 6675}
	wantCode(t, explain(nat.PortTakenError{Port: other, PID: os.Getpid(), Program: "socketplane"}), api.CodeConflict, "SocketPlane's agent itself; choose another")
}

// TestClusterPortsAreNotPublished: a container is never led what hosts send each
// other, also while nothing on this host has such a port.
func TestClusterPortsAreNotPublished(t *testing.T) {
	h := newTestHost(t)
	h.ConsulPorts = []firewall.Port{{Proto: unix.IPPROTO_TCP, Number: 8300}, {Proto: unix.IPPROTO_UDP, Number: 8301}}
	claim := func(p api.PortMapping) error {
		p.ContainerPort = 80
		_, err := h.claimPorts(local{endpoint: endpoint{ID: "e", Ports: []api.PortMapping{p}}})
		h.HostPorts.Release("e")
		return err
	}
	vtep := h.host().VTEP
	for _, p := range []api.PortMapping{
		{Proto: "udp", HostPort: 4789},
		{Proto: "udp", HostPort: 4789, HostIP: vtep},
		{Proto: "tcp", HostPort: 8300},
		{Proto: "tcp", HostPort: 8300, HostIP: netip.IPv4Unspecified()},
		{Proto: "udp", HostPort: 8301},
	} {
		wantCode(t, claim(p), api.CodeConflict, "carry the cluster", "choose another")
	}
	for _, p := range []api.PortMapping{
		{Proto: "tcp", HostPort: 4789}, {Proto: "udp", HostPort: 8300}, {Proto: "tcp", HostPort: 8300, HostIP: netip.MustParseAddr("127.0.0.1")},
	} {
		if err := claim(p); err != nil {
			t.Errorf("%+v: %v", p, err)
		}
	}
	// One that was published before the agent ran Consul leads nowhere.
	web := []api.PortMapping{{Proto: "tcp", HostPort: 8300, ContainerPort: 80}, {Proto: "tcp", HostPort: 8080, ContainerPort: 80}}
	h.table.put(local{Network: "web", endpoint: endpoint{ID: "e", IP: netip.MustParseAddr("10.6.0.2"), Ports: web, Attached: true}})
	if got := h.publishedHere(); len(got) != 1 || got[0].HostPort != 8080 {
		t.Errorf("published: %v", got)
	}
}
