package driver

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/socketplane/socketplane/agent/api"
)

// TestOptions: every option that reaches the driver is honoured, or refused by its
// name. These are the rows of the table in docs/docker.md.
func TestOptions(t *testing.T) {
	network := func(options string) (string, string) {
		return "NetworkDriver.CreateNetwork", `{"NetworkID":"n1","Options":{` + options + `},"IPv4Data":[{` + aPool + `}]}`
	}
	generic := func(options string) (string, string) {
		return network(`"com.docker.network.enable_ipv6":false,"com.docker.network.generic":{` + options + `}`)
	}
	pool := func(rest string) (string, string) {
		return "IpamDriver.RequestPool", `{"Pool":"10.7.0.0/24"` + rest + `}`
	}
	endpoint := func(options string) (string, string) {
		return "NetworkDriver.CreateEndpoint", `{"NetworkID":"n","EndpointID":"e","Interface":{"Address":"10.6.0.2/24"},"Options":{` + options + `}}`
	}
	type request struct{ method, body string }
	of := func(method, body string) request { return request{method, body} }
	for _, tt := range []struct {
		name string
		request
		refused string // a part of the sentence; empty: it passes
	}{
		{"no option", of(generic(``)), ""},
		{"no options at all", of(network(``)), ""},
		{"-o socketplane.network", of(generic(`"socketplane.network":"foo"`)), ""},
		{"-o socketplane.network, no string", of(generic(`"socketplane.network":{}`)), "socketplane.network"},
		{"-o socketplane.else", of(generic(`"socketplane.else":"x"`)), `"socketplane.else"`},
		{"-o mtu, smaller", of(generic(`"com.docker.network.driver.mtu":"1300"`)), "the MTU is 1450"},
		{"-o mtu, larger", of(generic(`"com.docker.network.driver.mtu":"9000"`)), "com.docker.network.driver.mtu=9000"},
		{"-o mtu, the network's", of(generic(`"com.docker.network.driver.mtu":"1450"`)), ""},
		{"-o mtu, nonsense", of(generic(`"com.docker.network.driver.mtu":"-1"`)), "not a number"},
		{"-o mtu, a list", of(generic(`"com.docker.network.driver.mtu":[1]`)), "not a number"},
		{"-o encrypted", of(generic(`"encrypted":"true"`)), `"encrypted"`},
		{"-o an option of the bridge driver's", of(generic(`"com.docker.network.bridge.enable_icc":"false"`)), `"com.docker.network.bridge.enable_icc"`},
		{"-o a long one", of(generic(`"` + strings.Repeat("x", 5000) + `":""`)), `xxx`},
		{"--internal", of(network(`"com.docker.network.internal":true`)), "--internal"},
		{"--ipv4=false", of("NetworkDriver.CreateNetwork", `{"NetworkID":"n1","Options":{"com.docker.network.enable_ipv4":false},"IPv4Data":null}`), "--ipv4=false"},
		{"--ipv4=false --ipv6", of("NetworkDriver.CreateNetwork", `{"NetworkID":"n1","Options":{"com.docker.network.enable_ipv4":false},"IPv6Data":[{"Pool":"fd00::/64"}]}`), "--ipv4=false"},
		{"-o gateway_mode", of(generic(`"com.docker.network.bridge.gateway_mode_ipv4":"isolated"`)), `"com.docker.network.bridge.gateway_mode_ipv4"`},
		{"-o inhibit_ipv4", of(generic(`"com.docker.network.bridge.inhibit_ipv4":"true"`)), `"com.docker.network.bridge.inhibit_ipv4"`},
		{"a later Docker's", of(network(`"com.docker.network.enable_ipv4":true`)), ""},
		{"--ipam-opt", of(pool(`,"Options":{"fixed":"1"}`)), `"fixed" (--ipam-opt)`},
		{"no --ipam-opt", of(pool(`,"Options":null`)), ""},

		{"--driver-opt", of(endpoint(`"x":"y"`)), `"x" (--driver-opt)`},
		{"--driver-opt socketplane.else", of(endpoint(`"socketplane.else":"y"`)), `"socketplane.else"`},
		{"--driver-opt socketplane.allow-address", of(endpoint(`"socketplane.allow-address":"10.6.0.200 10.6.1.0/24"`)), ""},
		{"--driver-opt socketplane.allow-address, none", of(endpoint(`"socketplane.allow-address":" , "`)), "names no address"},
		{"--driver-opt socketplane.allow-address, a list", of(endpoint(`"socketplane.allow-address":["10.6.0.200"]`)), "not a string"},
		{"--driver-opt socketplane.forwarding", of(endpoint(`"socketplane.allow-address":"10.99.0.0/16","socketplane.forwarding":"true"`)), ""},
		{"--driver-opt socketplane.forwarding, nonsense", of(endpoint(`"socketplane.forwarding":"maybe"`)), "true or false"},
		{"--driver-opt ifname", of(endpoint(`"com.docker.network.endpoint.ifname":"net0"`)), `"com.docker.network.endpoint.ifname"`},
		{"--driver-opt sysctls", of(endpoint(`"com.docker.network.endpoint.sysctls":"net.ipv4.conf.IFNAME.log_martians=1"`)), ""},
		{"what Docker adds", of(endpoint(`"com.docker.network.endpoint.exposedports":[{"Proto":6,"Port":80}],"com.docker.network.portmap":[],` +
			`"com.docker.network.endpoint.macaddress":"AgAAAAAB","com.docker.network.endpoint.dnsservers":["10.0.0.1"],"com.docker.network.endpoint.later":7`)), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			foo := aNetwork("foo", "10.6.0.0/24")
			foo.MTU = 1450
			d := newTestDriver(&agent{networks: []api.Network{foo}})
			d.known.setPools(map[netip.Prefix]string{foo.Subnet: "foo"})
			status, answer := call(t, d.Handler(), tt.method, tt.body)
			said := fmt.Sprint(answer["Err"])
			switch {
			case tt.refused == "" && status != http.StatusOK:
				t.Errorf("refused: %s", said)
			case tt.refused != "" && (status == http.StatusOK || !strings.Contains(said, tt.refused) || len(said) > 400):
				t.Errorf("%d %s, want %s", status, said, tt.refused)
			}
		})
	}
}
