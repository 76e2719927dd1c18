package agent

import (
	"net/netip"
	"os"
	"testing"

	"github.com/socketplane/socketplane/agent/api"
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
