package agenttest

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/socketplane/socketplane/agent/nat"
)

// TestHostPortsAgree runs the same cases against the stand-in and the real
// thing, on an address of loopback that nothing else uses.
func TestHostPortsAgree(t *testing.T) {
	type claims interface {
		Claim(owner string, ports []nat.Port, with ...string) ([]nat.Port, error)
		Release(owner string)
	}
	here := netip.MustParseAddr("127.77.66.55")
	any := nat.Port{Proto: "tcp", HostIP: here}
	for name, c := range map[string]claims{"stand-in": NewHostPorts(&Calls{}), "real": nat.NewClaims()} {
		t.Run(name, func(t *testing.T) {
			t.Cleanup(func() { c.Release("web"); c.Release("db") })
			first, err := c.Claim("web", []nat.Port{any, any, {Proto: "udp", HostIP: here}})
			if err != nil || len(first) != 3 || first[0] == first[1] || slices.ContainsFunc(first, func(p nat.Port) bool { return p.HostPort == 0 }) {
				t.Fatalf("%v, %v", first, err)
			}
			taken := func(owner, by string, ports ...nat.Port) {
				t.Helper()
				_, err := c.Claim(owner, ports)
				if e, ok := errors.AsType[*nat.PortTakenError](err); !ok || e.Owner != by {
					t.Errorf("%v: %v", ports, err)
				}
			}
			taken("db", "web", any, first[1])
			taken("db", "web", nat.Port{Proto: "tcp", HostPort: first[0].HostPort})
			for _, again := range [][]nat.Port{first, {any, any, {Proto: "udp", HostIP: here}}} {
				if got, err := c.Claim("web", again); err != nil || !slices.Equal(got, first) {
					t.Errorf("%v became %v, %v", first, got, err)
				}
			}
			if _, err := c.Claim("web", first[1:2]); err != nil {
				t.Error(err)
			}
			if _, err := c.Claim("db", first[:1]); err != nil {
				t.Error("what was given up is not free: ", err)
			}
			taken("db", "db", first[0], first[2], first[2])
			taken("db", "web", first[1])
			if got, err := c.Claim("eth1", first[1:2], "web"); err != nil || !slices.Equal(got, first[1:2]) {
				t.Errorf("shared: %v, %v", got, err)
			}
			if _, err := c.Claim("eth1", []nat.Port{{Proto: "tcp", HostPort: first[1].HostPort}}, "web"); err == nil {
				t.Error("a port on every address is shared with one of one address")
			}
			c.Release("web")
			taken("db", "eth1", first[1])
			c.Release("eth1")
			if got, err := c.Claim("db", first); err != nil || !slices.Equal(got, first) {
				t.Errorf("%v, %v", got, err)
			}
		})
	}
}
