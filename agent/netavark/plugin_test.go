package netavark

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/socketplane/socketplane/agent/api"
)

// fakeAgent is an agent that remembers; the real one is the system tests' matter.
type fakeAgent struct {
	api.Service // what a test does not expect fails loudly
	made        []api.CreateNetworkRequest
	attached    []api.AttachRequest
	released    []string
	fails       error
}

func (f *fakeAgent) CreateNetwork(_ context.Context, req api.CreateNetworkRequest) (api.Network, error) {
	f.made = append(f.made, req)
	return api.Network{ID: req.ID}, f.fails
}

func (f *fakeAgent) Attach(_ context.Context, req api.AttachRequest) (api.Endpoint, error) {
	f.attached = append(f.attached, req)
	return api.Endpoint{
		ID: req.ID, Network: req.Network, IP: netip.MustParseAddr("10.6.0.2"), PrefixLen: 16, Gateway: netip.MustParseAddr("10.6.0.1"),
		MAC: "02:42:0a:06:00:02", IfName: req.IfName, Attached: true,
	}, f.fails
}

func (f *fakeAgent) Release(_ context.Context, id string) error {
	f.released = append(f.released, id)
	return f.fails
}

// call is one call of the plugin; it gives what was said and the exit code.
func call(t *testing.T, f *fakeAgent, input string, args ...string) (string, int) {
	t.Helper()
	var out bytes.Buffer
	p := plugin{
		in: strings.NewReader(input), out: &out, patience: time.Minute, version: "v1",
		connect: func(string) api.Service { return f },
	}
	code := p.run(t.Context(), args)
	return out.String(), code
}

const podmansNetwork = `{"name":"web","id":"2f25","driver":"socketplane-netavark","created":"2026-12-01T10:00:00Z","ipv6_enabled":false,"internal":false,"dns_enabled":true,"ipam_options":{}`

func TestCreate(t *testing.T) {
	const rest = `"created":"2026-12-01T10:00:00Z","driver":"socketplane-netavark","id":"2f25","internal":false,"ipv6_enabled":false`
	tests := []struct {
		name, more string
		want       api.CreateNetworkRequest
		options    string // in the answer
	}{
		{"nothing special", ``, api.CreateNetworkRequest{ID: "web"}, ``},
		{
			"subnet and gateway", `,"subnets":[{"subnet":"10.6.0.0/16","gateway":"10.6.0.254","lease_range":null}]`,
			api.CreateNetworkRequest{ID: "web", Subnet: "10.6.0.0/16", Gateway: "10.6.0.254"},
			``,
		},
		{"another name", `,"options":{"network":"shop"}`, api.CreateNetworkRequest{ID: "shop"}, `"options":{"network":"shop"},`},
		{
			"name servers", `,"network_dns_servers":["10.0.0.2","10.0.0.1"],"options":{"dns":"10.0.0.1"}`,
			api.CreateNetworkRequest{ID: "web"},
			`"options":{"dns":"10.0.0.1,10.0.0.2"},`,
		},
		{"nothing that matters", `,"routes":[],"network_interface":"","options":null`, api.CreateNetworkRequest{ID: "web"}, `"network_interface":"","options":null,"routes":[],`},
	}
	for _, tc := range tests {
		f := &fakeAgent{}
		said, code := call(t, f, podmansNetwork+tc.more+"}", "create")
		if code != 0 || len(f.made) != 1 || f.made[0] != tc.want {
			t.Errorf("%s: %d, %s, the agent was asked for %+v", tc.name, code, said, f.made)
			continue
		}
		var got, want any
		if err := errors.Join(json.Unmarshal([]byte(said), &got),
			json.Unmarshal([]byte(`{"name":"web","dns_enabled":false,"ipam_options":{"driver":"none"},`+tc.options+rest+`}`), &want)); err != nil {
			t.Fatalf("%s: %v in %s", tc.name, err, said)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", tc.name, diff)
		}
	}
}

func TestCreateRefuses(t *testing.T) {
	for input, said := range map[string]string{
		``:                                  "not JSON",
		`[]`:                                "not a JSON object",
		podmansNetwork:                      "not JSON",
		podmansNetwork + `} {}`:             "more follows",
		podmansNetwork + `,"name":"other"}`: `key \"name\" comes twice`,
		`{"driver":"socketplane-netavark"}`: `no \"name\"`,
		`{"Name":"web"}`:                    `no \"name\"`,

		podmansNetwork + `,"internal2":1,"subnets":{}}`:                                                 `key \"subnets\"`,
		podmansNetwork + `,"options":{"mtu":"1300"}}`:                                                   `option \"mtu\"`,
		podmansNetwork + `,"options":{"network":"../x"}}`:                                               "network name",
		podmansNetwork + `,"options":{"socket":"x.sock"}}`:                                              "absolute path",
		podmansNetwork + `,"options":{"socket":"/` + strings.Repeat("x", 200) + `"}}`:                   "absolute path",
		podmansNetwork + `,"options":{"dns":"1.1.1.1,2.2.2.2,3.3.3.3,4.4.4.4"}}`:                        "4 name servers",
		podmansNetwork + `,"network_dns_servers":["x"]}`:                                                "name server",
		podmansNetwork + `,"routes":[{}]}`:                                                              "--route",
		podmansNetwork + `,"network_interface":"br0"}`:                                                  "--interface-name",
		podmansNetwork + `,"subnets":[{"subnet":"10.6.0.0/16"},{"subnet":"10.7.0.0/16"}]}`:              "a network has one",
		podmansNetwork + `,"subnets":[{"subnet":"10.6.0.0/16","lease_range":{"start_ip":"10.6.1.1"}}]}`: "--ip-range",
		strings.Replace(podmansNetwork, `{}`, `{"driver":"dhcp"}`, 1) + `}`:                             "--ipam-driver",
		strings.Replace(podmansNetwork, `"internal":false`, `"internal":true`, 1) + `}`:                 "--internal",
		strings.Replace(podmansNetwork, `"ipv6_enabled":false`, `"ipv6_enabled":true`, 1) + `}`:         "IPv4",
		strings.Replace(podmansNetwork, `"web"`, `"web web"`, 1) + `}`:                                  "network name",
		podmansNetwork + `,"x":"` + strings.Repeat("x", maxInput) + `"}`:                                "larger than",
		strings.Repeat(`{"name":`, 20000):                                                               "JSON",
	} {
		f := &fakeAgent{}
		got, code := call(t, f, input, "create")
		if code != 1 || !strings.HasPrefix(got, `{"error":"`) || !strings.Contains(got, said) || len(f.made) > 0 {
			t.Errorf("%.200s: %d, %s, want %s; the agent was asked for %v", input, code, got, said, f.made)
		}
	}
	f := &fakeAgent{fails: api.Errorf(api.CodeConflict, "network %q\nis there", "web")}
	if got, code := call(t, f, podmansNetwork+"}", "create"); code != 1 || got != `{"error":"network \"web\"; is there"}`+"\n" {
		t.Errorf("the agent's reason: %d, %s", code, got)
	}
}

// asks is what netavark 1.14 sends, with something in place of what is marked.
func asks(ports, network, mine string) string {
	return `{"container_id":"7529","container_name":"shop","port_mappings":` + ports + `,"network":{"name":"web","id":"2f25","driver":"socketplane-netavark"` + network +
		`},"network_options":{"aliases":["7529"],"interface_name":"eth0"` + mine + `},"container_hostname":null}`
}

func TestSetup(t *testing.T) {
	id := container{id: "7529", ifName: "eth0", network: podmanNetwork{name: "web"}}.endpointID()
	base := api.AttachRequest{ID: id, ContainerID: "7529", ContainerName: "shop", Network: "web", Source: api.SourceNetavark, NetNS: "/run/netns/n", IfName: "eth0"}
	with := func(f func(*api.AttachRequest)) api.AttachRequest { r := base; f(&r); return r }
	tests := []struct {
		name, ports, network, mine string
		want                       api.AttachRequest
	}{
		{"nothing special", `null`, ``, ``, base},
		{"nothing that matters", `[]`, `,"options":null,"subnets":null`, `,"static_ips":null,"static_mac":null,"options":null`, base},
		{"another name", `null`, `,"options":{"network":"shop"}`, ``, with(func(r *api.AttachRequest) { r.Network = "shop" })},
		{"addresses", `null`, ``, `,"static_ips":["10.6.0.9","10.6.0.9"],"static_mac":"02-00-00-00-00-0A"`, with(func(r *api.AttachRequest) {
			r.IP, r.MAC = "10.6.0.9", "02:00:00:00:00:0a"
		})},
		{
			"ports", `[{"container_port":80,"host_ip":"","host_port":8080,"protocol":"tcp,udp","range":1},{"container_port":90,"host_ip":"198.18.0.1","host_port":9000,"protocol":"","range":2},{"container_port":80,"host_port":8080}]`, ``, ``,
			with(func(r *api.AttachRequest) {
				host := netip.MustParseAddr("198.18.0.1")
				r.Ports = []api.PortMapping{
					{Proto: "tcp", HostPort: 8080, ContainerPort: 80},
					{Proto: "udp", HostPort: 8080, ContainerPort: 80},
					{Proto: "tcp", HostIP: host, HostPort: 9000, ContainerPort: 90},
					{Proto: "tcp", HostIP: host, HostPort: 9001, ContainerPort: 91},
				}
			}),
		},
	}
	for _, tc := range tests {
		f := &fakeAgent{}
		said, code := call(t, f, asks(tc.ports, tc.network, tc.mine), "setup", "/run/netns/n")
		if code != 0 {
			t.Errorf("%s: %s", tc.name, said)
			continue
		}
		if diff := cmp.Diff([]api.AttachRequest{tc.want}, f.attached, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Errorf("%s: %s", tc.name, diff)
		}
		const want = `{"dns_search_domains":[],"dns_server_ips":[],"interfaces":{"eth0":{"mac_address":"02:42:0a:06:00:02","subnets":[{"gateway":"10.6.0.1","ipnet":"10.6.0.2/16"}]}}}` + "\n"
		if said != want {
			t.Errorf("%s: it says %s", tc.name, said)
		}
	}
	said, _ := call(t, &fakeAgent{}, asks(`null`, `,"options":{"dns":"10.0.0.1"},"network_dns_servers":["10.0.0.2","10.0.0.1"]`, ``), "setup", "/n")
	if !strings.Contains(said, `"dns_server_ips":["10.0.0.1","10.0.0.2"]`) {
		t.Errorf("name servers: %s", said)
	}
}

func TestSetupRefuses(t *testing.T) {
	for _, tc := range []struct{ input, netns, said string }{
		{`{}`, "/n", `no \"name\"`},
		{asks(`null`, ``, ``), "n", "absolute path"},
		{strings.Replace(asks(`null`, ``, ``), `"7529",`, `"",`, 1), "/n", "container_id"},
		{strings.Replace(asks(`null`, ``, ``), `"7529",`, `"a b",`, 1), "/n", "container id"},
		{strings.Replace(asks(`null`, ``, ``), `"eth0"`, `"lo"`, 1), "/n", "loopback"},
		{strings.Replace(asks(`null`, ``, ``), `"eth0"`, `"../x"`, 1), "/n", "interface name"},
		{asks(`{}`, ``, ``), "/n", "port_mappings"},
		{asks(`[{"container_port":80,"host_port":0}]`, ``, ``), "/n", "1 to 65535"},
		{asks(`[{"container_port":80,"host_port":65530,"range":7}]`, ``, ``), "/n", "1 to 65535"},
		{asks(`[{"container_port":80,"host_port":80,"range":9223372036854775807}]`, ``, ``), "/n", "1 to 65535"},
		{asks(`[{"container_port":9223372036854775807,"host_port":80}]`, ``, ``), "/n", "1 to 65535"},
		{asks(`[{"container_port":80,"host_port":80,"range":300}]`, ``, ``), "/n", "more than 256"},
		{asks(`[{"container_port":80,"host_port":80,"protocol":"sctp"}]`, ``, ``), "/n", "neither tcp nor udp"},
		{asks(`[{"container_port":80,"host_port":80,"host_ip":"x"}]`, ``, ``), "/n", "host address"},
		{asks(`null`, `,"internal":true`, ``), "/n", "--internal"},
		{asks(`null`, ``, `,"static_ips":["10.6.0.9","10.6.0.8"]`), "/n", "an interface has one"},
		{asks(`null`, ``, `,"static_ips":["fd00::1"]`), "/n", "IPv4"},
		{asks(`null`, ``, `,"static_mac":"01:00:00:00:00:01"`), "/n", "unicast"},
		{asks(`null`, ``, `,"options":{"vlan":"7"}`), "/n", `option \"vlan\"`},
	} {
		f := &fakeAgent{}
		if got, code := call(t, f, tc.input, "setup", tc.netns); code != 1 || !strings.HasPrefix(got, `{"error":"`) || !strings.Contains(got, tc.said) || len(f.attached) > 0 {
			t.Errorf("%s: %d, %s, want %s", tc.input, code, got, tc.said)
		}
	}
}

// Podman keeps published ports for itself unless it is told not to; the user hears how.
func TestPodmanKeepsThePort(t *testing.T) {
	f := &fakeAgent{fails: api.Errorf(api.CodeConflict, "port 0.0.0.0:80/tcp of this host is taken by the program \"podman\" (pid 7); choose another, or end that program")}
	if said, code := call(t, f, asks(`[{"container_port":80,"host_port":80}]`, ``, ``), "setup", "/n"); code != 1 || !strings.Contains(said, "set enable_port_reservation = false in [engine]") {
		t.Errorf("%d, %s", code, said)
	}
}

// A container's end needs only what names it: not what setup would refuse.
func TestTeardown(t *testing.T) {
	for _, input := range []string{asks(`null`, ``, ``), asks(`[{"protocol":"sctp"}]`, `,"internal":true,"options":{"x":"y"}`, `,"static_ips":["x"],"options":{"x":"y"}`)} {
		f := &fakeAgent{}
		said, code := call(t, f, input, "teardown", "/gone")
		if code != 0 || said != "" || len(f.released) != 1 || f.released[0] != (container{id: "7529", ifName: "eth0", network: podmanNetwork{name: "web"}}).endpointID() {
			t.Errorf("%s: %d, %s, released %v", input, code, said, f.released)
		}
	}
	f := &fakeAgent{fails: api.Errorf(api.CodeUnavailable, "away")}
	if said, code := call(t, f, asks(`null`, ``, ``), "teardown", "/gone"); code != 1 || !strings.Contains(said, `of container \"7529\" away: away`) {
		t.Errorf("%d, %s", code, said)
	}
}

// Endpoints of other networks, containers and interfaces are others.
func TestEndpointID(t *testing.T) {
	ids := map[string]bool{}
	for _, network := range []string{"a", "ab"} {
		for _, id := range []string{"c", "bc"} {
			for _, ifName := range []string{"eth0", "eth1"} {
				e := container{id: id, ifName: ifName, network: podmanNetwork{name: network}}.endpointID()
				if err := api.CheckEndpointID(e); err != nil {
					t.Error(err)
				}
				ids[e] = true
			}
		}
	}
	if len(ids) != 8 {
		t.Errorf("%d ids, want 8: %v", len(ids), ids)
	}
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

// An interface of which nobody hears is taken away again.
func TestSetupThatCannotTellIsUndone(t *testing.T) {
	f := &fakeAgent{}
	p := plugin{in: strings.NewReader(asks(`null`, ``, ``)), out: brokenPipe{}, patience: time.Minute, connect: func(string) api.Service { return f }}
	if code := p.run(t.Context(), []string{"setup", "/n"}); code != 1 || len(f.attached) != 1 || len(f.released) != 1 || f.released[0] != f.attached[0].ID {
		t.Errorf("%d, attached %v, released %v", code, f.attached, f.released)
	}
}

func TestUse(t *testing.T) {
	for _, args := range [][]string{nil, {"help"}, {"setup"}, {"setup", "a", "b"}, {"create", "x"}, {"info", "x"}} {
		if said, code := call(t, &fakeAgent{}, "", args...); code != 1 || !strings.Contains(said, "podman network create --driver socketplane-netavark") {
			t.Errorf("%v: %d, %s", args, code, said)
		}
	}
	if said, code := call(t, &fakeAgent{}, "", "info"); code != 0 || said != `{"version":"v1","api_version":"1.0.0"}`+"\n" {
		t.Errorf("info: %d, %s", code, said)
	}
	var out bytes.Buffer
	p := plugin{in: strings.NewReader(""), out: &out, rootless: true}
	if code := p.run(t.Context(), []string{"create"}); code != 1 || !strings.Contains(out.String(), "run Podman as root") {
		t.Errorf("rootless: %d, %s", code, out.String())
	}
	env := func(value string) func(string) string {
		return func(name string) string {
			if name == "_CONTAINERS_USERNS_CONFIGURED" {
				return value
			}
			return ""
		}
	}
	if rootless(0, env("")) || !rootless(0, env("done")) || !rootless(1000, env("")) {
		t.Error("who is rootless is told wrongly")
	}
}

// Input that does not end is told.
func TestInputHasNoEnd(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close() //nolint:errcheck // only read from
	defer w.Close() //nolint:errcheck // nothing was written
	var out bytes.Buffer
	p := plugin{in: r, out: &out, patience: time.Millisecond}
	if code := p.run(t.Context(), []string{"create"}); code != 1 || !strings.Contains(out.String(), "has no end") {
		t.Errorf("%d, %s", code, out.String())
	}
}

func FuzzPlugin(f *testing.F) {
	f.Add([]byte(podmansNetwork + "}"))
	f.Add([]byte(asks(`[{"container_port":80,"host_port":8080,"protocol":"tcp,udp","range":3}]`, `,"options":{"dns":"10.0.0.1"}`, `,"static_ips":["10.6.0.9"]`)))
	f.Fuzz(func(t *testing.T, input []byte) {
		for _, args := range [][]string{{"create"}, {"setup", "/n"}, {"teardown", "/n"}} {
			said, code := call(t, &fakeAgent{}, string(input), args...)
			if (code == 0) != !strings.HasPrefix(said, `{"error":`) || said != "" && !json.Valid([]byte(said)) {
				t.Fatalf("%v: %d, %s", args, code, said)
			}
		}
	})
}
