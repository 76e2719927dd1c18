package agent

import (
	"fmt"
	"testing"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/cluster"
)

// TestNamesakes: where two hosts have one name, an error tells them apart.
func TestNamesakes(t *testing.T) {
	h := newTestHost(t)
	h.mustAttach("c1", "foo", "/ns/1")
	wantCode(t, h.DeleteNetwork(t.Context(), "foo"), api.CodeInUse, "on host h1;")
	h.put(cluster.HostsPrefix+peerID, fmt.Sprintf(
		`{"version":1,"id":%q,"name":"h1","vtep":"192.0.2.2","underlay_mtu":1500,"routes":null,"agent":"","datapath":"netdev"}`, peerID))
	h.put("socketplane/v1/endpoints/foo/"+peerID, `{"version":1,"endpoints":[{"id":"c2","ip":"10.6.0.77","mac":"02:42:0a:06:00:4d"}]}`)
	h.put("socketplane/v1/ipam/10.6.0.0-16/1", fmt.Sprintf(`{"version":1,"host":%q,"owners":{"10.6.0.77":"%s/c2"}}`, peerID, peerID))
	h.converge()
	wantCode(t, h.DeleteNetwork(t.Context(), "foo"), api.CodeInUse, "h1 (11111111), h1 (22222222)")
	_, err := h.Reserve(t.Context(), api.ReserveRequest{ID: "c3", Network: "foo", IP: "10.6.0.77", Source: api.SourceDocker})
	wantCode(t, err, api.CodeConflict, `on host "h1 (22222222)"`)
}
