package driver

import (
	"net/http"
	"net/netip"
	"slices"
	"testing"

	"github.com/socketplane/socketplane/agent/api"
)

// TestPublishAgain: Docker 28 and newer publish an endpoint's ports again when the
// container's networks change. A port that was chosen from a range stays, also when
// one before it is free meanwhile, and nothing is taken back in between: there are
// connections to it.
func TestPublishAgain(t *testing.T) {
	const program = "NetworkDriver.ProgramExternalConnectivity"
	const two = `{"EndpointID":"e","Options":{"com.docker.network.portmap":[` +
		`{"Proto":6,"Port":80,"HostPort":8000,"HostPortEnd":8005},{"Proto":6,"Port":443,"HostPort":8443,"HostPortEnd":8443}]}}`
	const another = `{"EndpointID":"e","Options":{"com.docker.network.portmap":[{"Proto":17,"Port":80,"HostPort":8000,"HostPortEnd":8005}]}}`
	tcp := func(host, container uint16) api.PortMapping {
		return api.PortMapping{Proto: api.ProtoTCP, HostIP: netip.IPv4Unspecified(), HostPort: host, ContainerPort: container}
	}
	for _, tt := range []struct {
		name, body string
		has        []api.PortMapping
		asked      []string
	}{
		{"the same", two, []api.PortMapping{tcp(8443, 443), tcp(8002, 80)}, []string{"publish e [0.0.0.0:8002->80/tcp 0.0.0.0:8443->443/tcp]"}},
		{"one of another range", two, []api.PortMapping{tcp(9000, 80)}, []string{"publish e [0.0.0.0:8443->443/tcp]", "publish e [0.0.0.0:8443->443/tcp 0.0.0.0:8000->80/tcp]"}},
		{"one of another protocol", another, []api.PortMapping{tcp(8002, 80)}, []string{"publish e []", "publish e [0.0.0.0:8000->80/udp]"}},
		{"nothing before", two, nil, []string{"publish e [0.0.0.0:8443->443/tcp]", "publish e [0.0.0.0:8443->443/tcp 0.0.0.0:8000->80/tcp]"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := &agent{endpoints: []api.Endpoint{{ID: "e", Ports: tt.has}}}
			status, answer := call(t, newTestDriver(a).Handler(), program, tt.body)
			if asked := a.wasAsked(); status != http.StatusOK || !slices.Equal(asked, tt.asked) {
				t.Errorf("%d %v, asked %q, want %q", status, answer, asked, tt.asked)
			}
		})
	}
}

// TestRevokeAgain: Docker may take ports back twice, and after the endpoint.
func TestRevokeAgain(t *testing.T) {
	a := &agent{}
	h := newTestDriver(a).Handler()
	for range 2 {
		if status, answer := call(t, h, "NetworkDriver.RevokeExternalConnectivity", `{"NetworkID":"n","EndpointID":"e"}`); status != http.StatusOK {
			t.Errorf("%d %v", status, answer)
		}
	}
}
