package agent

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/link"
	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/ovs"
)

// FuzzLocalOf: whatever stands in a port's external_ids is refused, or is an
// endpoint that could have been written there; so it is with a gateway's.
func FuzzLocalOf(f *testing.F) {
	for _, ids := range []map[string]string{
		{
			idEndpoint: "c1", idNetwork: "foo", idIP: "10.6.0.2", idMAC: "02:42:0a:06:00:02", idName: "web", idIfName: "eth0",
			idSource: "driver", idContainer: "c", idNetNS: "/proc/1/ns/net", idTurn: "1", idHostPorts: "[40000]",
			idPorts: `[{"proto":"tcp","container_port":80}]`,
		},
		{idEndpoint: "c1", idNetwork: "foo", idIP: "10.6.0.2", idMAC: "02:42:0a:06:00:02", idPorts: `[]x`, idHostPorts: "[0]"},
		{idNetwork: "foo", idSubnet: "10.6.0.0/16", idGateway: "10.6.0.1", idVNI: "10001", idMetadata: "true"},
	} {
		text, err := json.Marshal(ids)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var ids map[string]string
		if json.Unmarshal(text, &ids) != nil {
			return
		}
		p := ovs.Port{Name: link.HostName(ids[idEndpoint]), Kind: ovs.KindEndpoint, OFPort: 7, IDs: ids}
		if l, err := localOf(p); err == nil {
			again := port(l, network.Record{}, 0)
			again.OFPort = p.OFPort
			back, err := localOf(again)
			if diff := cmp.Diff(l.endpoint, back.endpoint, cmp.Comparer(sameAddr), cmpopts.EquateEmpty()); err != nil || diff != "" || back.Network != l.Network || back.NetNS != l.NetNS || back.Turn != l.Turn {
				t.Errorf("%s is read otherwise when written again: %v\n%s", text, err, diff)
			}
			if err := api.CheckPorts(l.published()); err != nil {
				t.Errorf("%s publishes what cannot be: %v", text, err)
			}
		}
		p.Name = link.GatewayName(ids[idNetwork])
		if r, ok := recordOfGateway(p); ok && (!r.Subnet.Contains(r.Gateway) || r.VNI == 0 || r.Subnet.Masked() != r.Subnet) {
			t.Errorf("%s gave %+v", text, r)
		}
	})
}
