package driver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/docker"
)

func aNetwork(id, subnet string) api.Network {
	return api.Network{ID: id, Subnet: netip.MustParsePrefix(subnet)}
}

const aPool = `"AddressSpace":"socketplane","Pool":"10.6.0.0/24","Gateway":"10.6.0.1/24"`

func TestCalls(t *testing.T) {
	for _, tt := range []struct {
		method, body string
		answer       string   // a part of the answer; of the sentence, when it is to fail
		fails        bool     //
		asked        []string // of the agent
	}{
		{"Plugin.Activate", ``, `"Implements":["NetworkDriver","IpamDriver"]`, false, nil},
		{"NetworkDriver.GetCapabilities", `{}`, `"ConnectivityScope":"global","GwAllocChecker":true,"Scope":"local"`, false, nil},
		{"IpamDriver.GetDefaultAddressSpaces", ``, `"LocalDefaultAddressSpace":"socketplane"`, false, nil},
		{"IpamDriver.GetCapabilities", ``, `"RequiresRequestReplay":false`, false, nil},
		{"NetworkDriver.EndpointOperInfo", `{"NetworkID":"n","EndpointID":"e"}`, `"Value":{}`, false, nil},
		{"NetworkDriver.Leave", `{"NetworkID":"n","EndpointID":"e"}`, `{}`, false, nil},
		{"NetworkDriver.Leave", `{"NetworkID":"n","EndpointID":"lives"}`, `{}`, false, nil},
		{"NetworkDriver.Leave", `{"NetworkID":"n","EndpointID":"published"}`, `{}`, false, []string{"publish published []"}},
		{"NetworkDriver.DeleteEndpoint", `{"NetworkID":"n","EndpointID":"published"}`, `{}`, false, []string{"publish published []", "detach published"}},
		{"NetworkDriver.GwAllocCheck", `{"Options":{}}`, `"SkipIPv4":false,"SkipIPv6":true`, false, nil},
		{"NetworkDriver.GwAllocCheck", `{"Options":{"com.docker.network.internal":true}}`, `--internal`, true, nil},
		{"NetworkDriver.GetCapabilities", `{}`, `"GwAllocChecker":true`, false, nil},
		{"NetworkDriver.DiscoverNew", `{"DiscoveryType":1,"DiscoveryData":{"Address":"x"}}`, `{}`, false, nil},

		{"IpamDriver.RequestPool", `{"Pool":""}`, `"Pool":"10.9.0.0/24","PoolID":"10.9.0.0/24"`, false, []string{"reserve any"}},
		{"IpamDriver.RequestPool", `{"Pool":"10.7.0.0/24"}`, `"PoolID":"10.7.0.0/24"`, false, []string{"reserve 10.7.0.0/24"}},
		{"IpamDriver.RequestPool", `{"Pool":"10.66.0.0/24"}`, `subnet 10.66.0.0/24 overlaps`, true, []string{"reserve 10.66.0.0/24"}},
		{"IpamDriver.RequestPool", `{"Pool":"10.6.0.9/24"}`, `did you mean 10.6.0.0/24`, true, nil},
		{"IpamDriver.RequestPool", `{"Pool":"10.7.0.0/24","SubPool":"10.7.0.128/25"}`, `"Pool":"10.7.0.0/24","PoolID":"10.7.0.0/24,10.7.0.128/25"`, false, []string{"reserve 10.7.0.0/24"}},
		{"IpamDriver.RequestPool", `{"Pool":"10.7.0.0/24","SubPool":"10.8.0.0/25"}`, `not a part of subnet`, true, nil},
		{"IpamDriver.RequestPool", `{"Pool":"10.7.0.0/24","SubPool":"10.7.0.1/25"}`, `did you mean 10.7.0.0/25`, true, nil},
		{"IpamDriver.RequestPool", `{"SubPool":"10.7.0.0/25"}`, `--ip-range needs a --subnet`, true, nil},
		{"IpamDriver.RequestAddress", `{"PoolID":"10.6.0.0/24,10.6.0.128/25"}`, `"Address":"10.6.0.2/24"`, false, []string{"hold foo within 10.6.0.128/25"}},
		{"IpamDriver.RequestAddress", `{"PoolID":"10.6.0.0/24,10.7.0.128/25"}`, `not a part`, true, nil},
		{"IpamDriver.RequestAddress", `{"PoolID":"10.6.0.0/24,"}`, `CIDR`, true, nil},
		{"IpamDriver.RequestAddress", `{"PoolID":"10.6.0.0/24,10.6.0.128/25","Options":{"RequestAddressType":"com.docker.network.gateway"}}`, `"Address":"10.6.0.1/24"`, false, nil},
		{"IpamDriver.ReleaseAddress", `{"PoolID":"10.6.0.0/24,10.6.0.128/25","Address":"10.6.0.7"}`, `{}`, false, []string{"release gone"}},
		{"IpamDriver.RequestPool", `{"Pool":"fd00::/64","V6":true}`, `IPv4`, true, nil},

		{"IpamDriver.RequestAddress", `{"PoolID":"10.6.0.0/24"}`, `"Address":"10.6.0.2/24"`, false, []string{"hold foo "}},
		{"IpamDriver.RequestAddress", `{"PoolID":"10.6.0.0/24","Address":"10.6.0.9"}`, `"Address":"10.6.0.9/24"`, false, []string{"hold foo 10.6.0.9"}},
		{"IpamDriver.RequestAddress", `{"PoolID":"10.6.0.0/24","Options":{"RequestAddressType":"com.docker.network.gateway"}}`, `"Address":"10.6.0.1/24"`, false, nil},
		{"IpamDriver.RequestAddress", `{"PoolID":"10.6.0.0/24","Address":"10.7.0.1","Options":{"RequestAddressType":"com.docker.network.gateway"}}`, `not in`, true, nil},
		{"IpamDriver.RequestAddress", `{"PoolID":"10.6.0.0/24","Address":"10.6.0.0","Options":{"RequestAddressType":"com.docker.network.gateway"}}`, `network address`, true, nil},
		{"IpamDriver.RequestAddress", `{"PoolID":"10.6.0.0/24","Address":"10.6.0.255","Options":{"RequestAddressType":"com.docker.network.gateway"}}`, `broadcast address`, true, nil},
		{"NetworkDriver.CreateNetwork", `{"NetworkID":"n1","IPv4Data":[{"AddressSpace":"socketplane","Pool":"10.6.0.0/24","Gateway":"10.6.0.255/24"}]}`, `broadcast address`, true, nil},
		{"IpamDriver.RequestAddress", `{"PoolID":"10.8.0.0/24"}`, `no network has subnet 10.8.0.0/24`, true, nil},
		{"IpamDriver.RequestAddress", `{"PoolID":"../x"}`, `CIDR`, true, nil},
		{"IpamDriver.RequestAddress", `{"PoolID":"10.6.0.0/24","Address":"x"}`, `not an IPv4 address`, true, nil},

		{"NetworkDriver.CreateNetwork", `{"NetworkID":"n1","IPv4Data":[{` + aPool + `}]}`, `{}`, false, nil},
		{"NetworkDriver.CreateNetwork", `{"NetworkID":"n1","Options":{"com.docker.network.generic":{"socketplane.network":"web"}},"IPv4Data":[{` + aPool + `}]}`, `{}`, false, []string{"create web 10.6.0.0/24 10.6.0.1 false"}},
		{"NetworkDriver.CreateNetwork", `{"NetworkID":"n1","Options":{"com.docker.network.generic":{"socketplane.network":"../x"}},"IPv4Data":[{` + aPool + `}]}`, `may hold only`, true, []string{"create ../x 10.6.0.0/24 10.6.0.1 false"}},
		{"NetworkDriver.CreateNetwork", `{"NetworkID":"n1","IPv4Data":[{"AddressSpace":"LocalDefault","Pool":"10.6.0.0/24","Gateway":"10.6.0.1/24"}]}`, `--ipam-driver socketplane`, true, nil},
		{"NetworkDriver.CreateNetwork", `{"NetworkID":"n1","Options":{"com.docker.network.internal":true},"IPv4Data":[{` + aPool + `}]}`, `--internal`, true, nil},
		{"NetworkDriver.CreateNetwork", `{"NetworkID":"n1","IPv4Data":[{` + aPool + `,"AuxAddresses":{"a":"10.6.0.3/24"}}]}`, `{}`, false, nil},
		{"NetworkDriver.CreateNetwork", `{"NetworkID":"n1","IPv4Data":[{` + aPool + `,"AuxAddresses":{"a":"10.6.0.1/24"}}]}`, `--aux-address 10.6.0.1 is the network's gateway`, true, nil},
		{"NetworkDriver.CreateNetwork", `{"NetworkID":"n1","IPv4Data":[{` + aPool + `,"AuxAddresses":{"a":"10.6.0.255/24"}}]}`, `broadcast address`, true, nil},
		{"NetworkDriver.CreateNetwork", `{"NetworkID":"n1","IPv4Data":[{` + aPool + `,"AuxAddresses":{"a":"10.7.0.3/24"}}]}`, `--aux-address 10.7.0.3 is not in`, true, nil},
		{"NetworkDriver.CreateNetwork", `{"NetworkID":"n1","IPv4Data":[{` + aPool + `,"AuxAddresses":{"a":"x"}}]}`, `--aux-address "x"`, true, nil},
		{"NetworkDriver.CreateNetwork", `{"NetworkID":"n1","IPv4Data":[{` + aPool + `,"AuxAddresses":{"":"10.6.0.3/24"}}]}`, `must be 1 to`, true, nil},
		{"NetworkDriver.CreateNetwork", `{"NetworkID":"n1","IPv4Data":[]}`, `one subnet`, true, nil},
		{"NetworkDriver.CreateNetwork", `{"NetworkID":"n1","IPv4Data":[{` + aPool + `}],"IPv6Data":[{}]}`, `IPv4`, true, nil},
		{"NetworkDriver.CreateNetwork", `{"NetworkID":"../n","IPv4Data":[{` + aPool + `}]}`, `may hold only`, true, nil},
		{"NetworkDriver.CreateNetwork", `{"NetworkID":"n1","IPv4Data":[{"AddressSpace":"socketplane","Pool":"10.6.0.0/24","Gateway":"10.7.0.1/24"}]}`, `gateway`, true, nil},
		{"NetworkDriver.DeleteNetwork", `{"NetworkID":"unknown"}`, `{}`, false, nil},

		{"NetworkDriver.CreateEndpoint", `{"NetworkID":"n","EndpointID":"e","Interface":{"Address":"10.6.0.2/24"}}`, `"MacAddress":"02:42:0a:06:00:02"`, false, []string{"reserve e foo 10.6.0.2  driver"}},
		{"NetworkDriver.CreateEndpoint", `{"NetworkID":"n","EndpointID":"e","Interface":{"Address":"10.6.0.2/24","MacAddress":"02:00:00:00:00:01"}}`, `"MacAddress":""`, false, []string{"reserve e foo 10.6.0.2 02:00:00:00:00:01 driver"}},
		{"NetworkDriver.CreateEndpoint", `{"NetworkID":"n","EndpointID":"e","Interface":{"Address":"10.6.0.2/24"},"Options":{"socketplane.allow-address":"10.6.0.200, 10.99.0.0/16","socketplane.forwarding":"true"}}`, `"MacAddress":"02:42:0a:06:00:02"`, false, []string{"reserve e foo 10.6.0.2  driver", "allow [10.6.0.200 10.99.0.0/16] forwarding true"}},
		{"NetworkDriver.CreateEndpoint", `{"NetworkID":"n","EndpointID":"e"}`, `no address`, true, nil},
		{"NetworkDriver.CreateEndpoint", `{"NetworkID":"n","EndpointID":"e","Interface":{"Address":"x"}}`, `not a CIDR`, true, nil},
		{"NetworkDriver.CreateEndpoint", `{"NetworkID":"n","EndpointID":"e","Interface":{"Address":"10.6.0.2/24","AddressIPv6":"fd00::2/64"}}`, `IPv4`, true, nil},
		{"NetworkDriver.Join", `{"NetworkID":"n","EndpointID":"e","SandboxKey":"/var/run/docker/netns/1"}`, `"Gateway":"10.6.0.1","InterfaceName":{"DstPrefix":"eth","SrcName":"spp1"}`, false, []string{"attach e /var/run/docker/netns/1 true"}},
		{"NetworkDriver.DeleteEndpoint", `{"NetworkID":"n","EndpointID":"e"}`, `{}`, false, []string{"detach e"}},
		{"NetworkDriver.DeleteEndpoint", `{"NetworkID":"n","EndpointID":"../e"}`, `may hold only`, true, []string{"detach ../e"}},

		{"NetworkDriver.ProgramExternalConnectivity", `{"EndpointID":"e","Options":{"com.docker.network.portmap":[{"Proto":6,"IP":"","Port":80,"HostIP":"","HostPort":8080,"HostPortEnd":8080},{"Proto":17,"Port":53,"HostIP":"0.0.0.0","HostPort":0,"HostPortEnd":0},{"Proto":17,"Port":53,"HostIP":"::","HostPort":0,"HostPortEnd":0}]}}`, `{}`, false, []string{"publish e [0.0.0.0:8080->80/tcp 0.0.0.0:0->53/udp]"}},
		{"NetworkDriver.ProgramExternalConnectivity", `{"EndpointID":"e","Options":{"com.docker.network.portmap":[{"Proto":6,"Port":80,"HostIP":"::","HostPort":29083,"HostPortEnd":29083}]}}`, `port 29083 cannot be published on [::]`, true, nil},
		{"NetworkDriver.ProgramExternalConnectivity", `{"EndpointID":"e","Options":{"com.docker.network.portmap":[{"Proto":6,"Port":80,"HostIP":"0.0.0.0","HostPort":80},{"Proto":6,"Port":80,"HostIP":"fd00::1","HostPort":80}]}}`, `cannot be published on [fd00::1]`, true, nil},
		{"NetworkDriver.ProgramExternalConnectivity", `{"EndpointID":"e","Options":{"com.docker.network.portmap":[{"Proto":6,"Port":80,"HostIP":"::ffff:198.18.0.1","HostPort":80}]}}`, `{}`, false, []string{"publish e [198.18.0.1:80->80/tcp]"}},
		{"NetworkDriver.ProgramExternalConnectivity", `{"EndpointID":"e","Options":{"com.docker.network.portmap":[{"Proto":6,"Port":80,"HostPort":8000,"HostPortEnd":8005}]}}`, `{}`, false, []string{"publish e []", "publish e [0.0.0.0:8002->80/tcp]"}},
		{"NetworkDriver.ProgramExternalConnectivity", `{"EndpointID":"e","Options":{"com.docker.network.portmap":[{"Proto":6,"Port":80,"HostPort":8000,"HostPortEnd":8001}]}}`, `no port of the range`, true, []string{"publish e []"}},
		{"NetworkDriver.ProgramExternalConnectivity", `{"EndpointID":"e","Options":{"com.docker.network.portmap":[{"Proto":132,"Port":80}]}}`, `tcp or udp`, true, nil},
		{"NetworkDriver.ProgramExternalConnectivity", `{"EndpointID":"e","Options":{"com.docker.network.portmap":"x"}}`, `published ports`, true, nil},
		{"NetworkDriver.ProgramExternalConnectivity", `{"EndpointID":"e","Options":{}}`, `{}`, false, nil},
		{"NetworkDriver.RevokeExternalConnectivity", `{"EndpointID":"e"}`, `{}`, false, []string{"publish e []"}},

		{"IpamDriver.ReleaseAddress", `{"PoolID":"10.6.0.0/24","Address":"10.6.0.7"}`, `{}`, false, []string{"release gone"}},
		{"IpamDriver.ReleaseAddress", `{"PoolID":"10.6.0.0/24","Address":"10.6.0.8"}`, `{}`, false, []string{"unhold foo 10.6.0.8"}}, // attached: Docker has forgotten it, the sweep sees
		{"IpamDriver.ReleaseAddress", `{"PoolID":"10.6.0.0/24","Address":"10.6.0.5"}`, `{}`, false, []string{"unhold foo 10.6.0.5"}}, // in the making: another container lost
		{"IpamDriver.ReleaseAddress", `{"PoolID":"10.6.0.0/24","Address":"10.6.0.66"}`, `{}`, false, []string{"unhold foo 10.6.0.66"}},
		{"IpamDriver.ReleaseAddress", `{"PoolID":"10.99.0.0/24","Address":"10.99.0.66"}`, `{}`, false, nil},
		{"IpamDriver.ReleasePool", `{"PoolID":"10.6.0.0/24"}`, `{}`, false, nil},

		// A call that Docker makes again after the agent went away has lost its content.
		{"IpamDriver.RequestPool", ``, docker.LostCall, true, nil},
		{"IpamDriver.RequestAddress", ` `, docker.LostCall, true, nil},
		{"IpamDriver.ReleaseAddress", ``, docker.LostCall, true, nil},
		{"NetworkDriver.DeleteNetwork", ``, docker.LostCall, true, nil},
		{"NetworkDriver.CreateEndpoint", ``, docker.LostCall, true, nil},
		{"NetworkDriver.ProgramExternalConnectivity", ``, docker.LostCall, true, nil},
		{"NetworkDriver.Leave", ``, `{}`, false, nil},

		{"NetworkDriver.Join", `[]`, `not what the call takes`, true, nil},
		{"NetworkDriver.Join", `{"EndpointID":7}`, `not what the call takes`, true, nil},
		{"NetworkDriver.Join", `{`, `not what the call takes`, true, nil},
	} {
		a := &agent{
			networks: []api.Network{aNetwork("foo", "10.6.0.0/24")},
			endpoints: []api.Endpoint{
				{ID: "gone", Source: api.SourceDriver, Network: "foo", IP: netip.MustParseAddr("10.6.0.7"), PrefixLen: 24},
				{ID: "making", Source: api.SourceDriver, Network: "foo", IP: netip.MustParseAddr("10.6.0.5"), PrefixLen: 24},
				{ID: "lives", Source: api.SourceDriver, Network: "foo", IP: netip.MustParseAddr("10.6.0.8"), PrefixLen: 24, Attached: true},
				{
					ID: "published", Source: api.SourceDriver, Network: "foo", IP: netip.MustParseAddr("10.6.0.11"), PrefixLen: 24, Attached: true,
					Ports: []api.PortMapping{{HostPort: 80, ContainerPort: 80, Proto: api.ProtoTCP}},
				},
				{ID: "other", Source: api.SourceDocker, Network: "foo", IP: netip.MustParseAddr("10.6.0.66"), PrefixLen: 24},
			},
			busy: map[uint16]bool{8000: true, 8001: true},
		}
		d := newTestDriver(a)
		d.known.setPools(map[netip.Prefix]string{netip.MustParsePrefix("10.6.0.0/24"): "foo"})
		d.known.begun("making")
		status, answer := call(t, d.Handler(), tt.method, tt.body)
		raw, _ := json.Marshal(answer)
		if tt.fails {
			sentence, _ := answer["Err"].(string)
			if status != http.StatusInternalServerError || !strings.Contains(sentence, tt.answer) || answer["Error"] != answer["Err"] {
				t.Errorf("%s %s: %d %s", tt.method, tt.body, status, raw)
			}
		} else if status != http.StatusOK || !bytes.Contains(raw, []byte(tt.answer)) {
			t.Errorf("%s %s: %d %s, want %s", tt.method, tt.body, status, raw, tt.answer)
		}
		if !slices.Equal(a.asked, tt.asked) {
			t.Errorf("%s %s asked %q, want %q", tt.method, tt.body, a.asked, tt.asked)
		}
	}
	if status, _ := call(t, newTestDriver(&agent{}).Handler(), "NetworkDriver.Nonsense", "{}"); status != http.StatusNotFound {
		t.Errorf("an unknown call: %d", status)
	}
}

// TestStaleNames: a network that went, and came again under another name, is
// found by its subnet.
func TestStaleNames(t *testing.T) {
	a := &agent{networks: []api.Network{aNetwork("web", "10.6.0.0/24")}}
	d := newTestDriver(a)
	d.known.setPools(map[netip.Prefix]string{netip.MustParsePrefix("10.6.0.0/24"): "old"})
	status, answer := call(t, d.Handler(), "IpamDriver.RequestAddress", `{"PoolID":"10.6.0.0/24"}`)
	if status != http.StatusOK || answer["Address"] != "10.6.0.2/24" || !slices.Equal(a.asked, []string{"hold old ", "hold web "}) {
		t.Errorf("%d %v, asked %q", status, answer, a.asked)
	}
	// The name is there with another subnet: the address must not be from that.
	a = &agent{networks: []api.Network{aNetwork("foo", "10.8.0.0/24"), aNetwork("web", "10.6.0.0/24")}}
	d = newTestDriver(a)
	d.known.setPools(map[netip.Prefix]string{netip.MustParsePrefix("10.8.0.0/24"): "foo"})
	status, answer = call(t, d.Handler(), "IpamDriver.RequestAddress", `{"PoolID":"10.8.0.0/24"}`)
	if status == http.StatusOK || !slices.Contains(a.asked, "unhold foo 10.6.0.2") {
		t.Errorf("%d %v, asked %q", status, answer, a.asked)
	}
}

// TestUsersNetwork: a network that a user makes through Docker is the cluster's
// once its name is known; who asks for an address before that waits.
func TestUsersNetwork(t *testing.T) {
	a := &agent{}
	d := newTestDriver(a)
	if status, answer := call(t, d.Handler(), "NetworkDriver.CreateNetwork", `{"NetworkID":"n1","IPv4Data":[{`+aPool+`}]}`); status != http.StatusOK {
		t.Fatal(answer)
	}
	if status, answer := call(t, d.Handler(), "IpamDriver.RequestPool", `{"Pool":"10.6.0.0/24"}`); status == http.StatusOK {
		t.Errorf("the same subnet again: %v", answer)
	}
	got := make(chan int)
	go func() {
		status, _ := call(t, d.Handler(), "IpamDriver.RequestAddress", `{"PoolID":"10.6.0.0/24"}`)
		got <- status
	}()
	w, ok := d.known.awaited("n1")
	if !ok {
		t.Fatal("nobody waits for its name")
	}
	if err := d.named(t.Context(), nil, docker.Network{ID: "n1", Name: "web"}, w); err != nil {
		t.Fatal(err)
	}
	if status := <-got; status != http.StatusOK {
		t.Errorf("the address: %d", status)
	}
	call(t, d.Handler(), "NetworkDriver.DeleteNetwork", `{"NetworkID":"n1"}`)
	if !slices.Contains(a.asked, "delete web") {
		t.Errorf("asked %q", a.asked)
	}
	// Docker could not write down what it was to make for us, and takes it back.
	done := d.known.begin(netip.MustParsePrefix("10.8.0.0/24"), "kept")
	a.networks = append(a.networks, aNetwork("kept", "10.8.0.0/24"))
	if status, answer := call(t, d.Handler(), "NetworkDriver.CreateNetwork", `{"NetworkID":"n3","IPv4Data":[{`+strings.ReplaceAll(aPool, "10.6.", "10.8.")+`}]}`); status != http.StatusOK {
		t.Error(answer)
	}
	call(t, d.Handler(), "NetworkDriver.DeleteNetwork", `{"NetworkID":"n3"}`)
	if done(errors.New("the disk is full")) {
		t.Error("no user has removed it")
	}
	a.networks = a.networks[:len(a.networks)-1]
	if slices.Contains(a.asked, "delete kept") {
		t.Errorf("asked %q", a.asked)
	}
	// One whose name never comes does not keep its subnet for ever.
	if err := d.known.await("n4", wish{subnet: netip.MustParsePrefix("10.8.0.0/24")}); err != nil {
		t.Fatal(err)
	}
	d.known.mu.Lock()
	w = d.known.pending["n4"]
	w.until = time.Now().Add(-time.Second)
	d.known.pending["n4"] = w
	d.known.mu.Unlock()
	if status, answer := call(t, d.Handler(), "IpamDriver.RequestPool", `{"Pool":"10.8.0.0/24"}`); status != http.StatusOK {
		t.Errorf("its subnet: %v", answer)
	}
	// The default network stays, and whatever was not made through Docker.
	for id, name := range map[string]string{"n2": api.DefaultNetwork, "n5": "foo"} {
		a.networks = append(a.networks, aNetwork(name, "10.1.0.0/16"))
		d.known.bind(id, name, netip.MustParsePrefix("10.1.0.0/16"))
		if status, answer := call(t, d.Handler(), "NetworkDriver.DeleteNetwork", `{"NetworkID":"`+id+`"}`); status == http.StatusOK || slices.Contains(a.asked, "delete "+name) {
			t.Errorf("network %s: %d %v", name, status, answer)
		}
	}
}

// endless is a body that never ends.
type endless struct{ sent int }

func (e *endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	e.sent += len(p)
	return len(p), nil
}

// TestHugeBody: what is too large is refused after its bound, and costs no memory.
func TestHugeBody(t *testing.T) {
	h := newTestDriver(&agent{}).Handler()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	body := &endless{}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/NetworkDriver.Join", io.NopCloser(body)))
	runtime.ReadMemStats(&after)
	if w.Code != http.StatusInternalServerError || !strings.Contains(w.Body.String(), "larger than") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if body.sent > 2*maxBody || after.TotalAlloc-before.TotalAlloc > 8*maxBody {
		t.Errorf("read %d bytes, allocated %d", body.sent, after.TotalAlloc-before.TotalAlloc)
	}
}

// TestSlowAgent: Docker has an answer within 5 s, whatever the agent does, also
// when it goes on past its time. What it still makes is taken back.
func TestSlowAgent(t *testing.T) {
	for _, tt := range []struct {
		name, method, body string
		block              bool
		stall              time.Duration
		undone             string
	}{
		{"obeys", "IpamDriver.RequestPool", `{"Pool":"10.7.0.0/24"}`, true, 0, ""},
		{"goes on", "IpamDriver.RequestPool", `{"Pool":"10.7.0.0/24"}`, false, 20 * time.Second, ""},
		{"holds late", "IpamDriver.RequestAddress", `{"PoolID":"10.6.0.0/24"}`, false, 20 * time.Second, "unhold foo 10.6.0.2"},
		{"reserves late", "NetworkDriver.CreateEndpoint", `{"NetworkID":"n","EndpointID":"e","Interface":{"Address":"10.6.0.2/24"}}`, false, 20 * time.Second, "release e"},
		{"attaches late", "NetworkDriver.Join", `{"NetworkID":"n","EndpointID":"e"}`, false, 20 * time.Second, "release e"},
		{"attaches a little late", "NetworkDriver.Join", `{"NetworkID":"n","EndpointID":"e"}`, false, callTimeout + lastWords/2, "release e"},
		{"cannot detach", "NetworkDriver.DeleteEndpoint", `{"NetworkID":"n","EndpointID":"e"}`, false, 20 * time.Second, "release e"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := &agent{block: tt.block, stall: tt.stall}
				d := newTestDriver(a)
				d.known.setPools(map[netip.Prefix]string{netip.MustParsePrefix("10.6.0.0/24"): "foo"})
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan struct{})
				go func() { defer close(ended); d.payOwed(ctx) }()
				start := time.Now()
				status, answer := call(t, d.Handler(), tt.method, tt.body)
				if took := time.Since(start); status == http.StatusOK || took > 5*time.Second {
					t.Errorf("%d %v after %s", status, answer, took)
				}
				time.Sleep(time.Minute) // of the bubble's clock
				undone := slices.DeleteFunc(a.wasAsked(), func(s string) bool {
					return !strings.HasPrefix(s, "release ") && !strings.HasPrefix(s, "unhold ")
				})
				if got := strings.Join(slices.Compact(undone), ", "); got != tt.undone {
					t.Errorf("taken back: %q, want %q", got, tt.undone)
				}
				if left := d.owed.list(); len(left) != 0 || d.known.inTheMaking("e") {
					t.Errorf("still owed: %v; in the making: %v", left, d.known.inTheMaking("e"))
				}
				cancel()
				<-ended
			})
		})
	}
}

// TestGivenUp: the address of an endpoint that is owed already is not waited for.
func TestGivenUp(t *testing.T) {
	a := &agent{endpoints: []api.Endpoint{
		{ID: "e", Source: api.SourceDriver, Network: "foo", IP: netip.MustParseAddr("10.6.0.7"), PrefixLen: 24},
	}}
	d := newTestDriver(a)
	d.owed.add("e")
	status, answer := call(t, d.Handler(), "IpamDriver.ReleaseAddress", `{"PoolID":"10.6.0.0/24","Address":"10.6.0.7"}`)
	if status != http.StatusOK || len(a.asked) != 0 {
		t.Errorf("%d %v, asked %q", status, answer, a.asked)
	}
}

// TestPanic: a call that panics does so where the server expects it.
func TestPanic(t *testing.T) {
	d := newTestDriver(&agent{})
	d.Service = nil
	defer func() {
		if p := recover(); p == nil {
			t.Error("nobody heard of it")
		}
	}()
	call(t, d.Handler(), "NetworkDriver.Join", `{}`)
}

// FuzzCalls: whatever is sent to whatever call is answered in JSON and harms
// nothing.
func FuzzCalls(f *testing.F) {
	methods := []string{
		"NetworkDriver.CreateNetwork", "NetworkDriver.CreateEndpoint", "NetworkDriver.Join", "NetworkDriver.ProgramExternalConnectivity",
		"IpamDriver.RequestPool", "IpamDriver.RequestAddress", "IpamDriver.ReleaseAddress",
		"NetworkDriver.DeleteNetwork", "NetworkDriver.DeleteEndpoint", "NetworkDriver.RevokeExternalConnectivity",
	}
	for i, body := range []string{
		`{"NetworkID":"n1","IPv4Data":[{` + aPool + `}]}`, `{"NetworkID":"n","EndpointID":"e","Interface":{"Address":"10.6.0.2/24"}}`,
		`{"SandboxKey":"/x"}`, `{"EndpointID":"e","Options":{"com.docker.network.portmap":[{"Proto":6,"Port":80,"HostPort":65535,"HostPortEnd":65535}]}}`,
		`{"Pool":"10.7.0.0/24"}`, `{"PoolID":"10.6.0.0/24","Address":"10.6.0.9","Options":{"RequestAddressType":"com.docker.network.gateway"}}`, `null`,
		`{"NetworkID":"n1"}`, `{"NetworkID":"n1","EndpointID":"e"}`, `{"EndpointID":"../e"}`,
	} {
		f.Add(uint8(i), body)
	}
	f.Fuzz(func(t *testing.T, n uint8, body string) {
		a := &agent{networks: []api.Network{aNetwork("foo", "10.6.0.0/24")}}
		d := newTestDriver(a)
		d.known.bind("n1", "foo", netip.MustParsePrefix("10.6.0.0/24"))
		status, answer := call(t, d.Handler(), methods[int(n)%len(methods)], body)
		if sentence, _ := answer["Err"].(string); status != http.StatusOK && (sentence == "" || strings.ContainsAny(sentence, "\x00")) {
			t.Errorf("%d %v", status, answer)
		}
	})
}
