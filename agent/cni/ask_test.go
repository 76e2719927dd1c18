package cni

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"

	"github.com/socketplane/socketplane/agent/api"
)

func TestAsked(t *testing.T) {
	base := api.AttachRequest{ID: endpointID("net", "c1", "eth0"), ContainerID: "c1", Network: "net", Source: api.SourceCNI, NetNS: "/n", IfName: "eth0"}
	with := func(f func(*api.AttachRequest)) api.AttachRequest { r := base; f(&r); return r }
	long := strings.Repeat("a", 70)
	tests := []struct {
		name, config, env, id, ifname string
		want                          api.AttachRequest
		code                          uint
		says                          string
	}{
		{name: "nothing special", config: plain, want: base},
		{name: "network", config: `{"name":"net","network":"web"}`, want: with(func(r *api.AttachRequest) { r.Network = "web" })},
		{name: "standard keys", config: `{"name":"net","ipMasq":true,"dns":{},"ipam":{},"args":{"other":1},"capabilities":{"x":true},"cni.dev/x":1}`, want: base},
		{
			name: "capabilities", config: `{"name":"net","runtimeConfig":{"ips":["10.6.0.9/16"],"mac":"02-00-00-00-00-0A","portMappings":[{"hostPort":80,"containerPort":8080,"protocol":"UDP","hostIP":"198.18.0.1"},{"hostPort":81,"containerPort":1}]}}`,
			want: with(func(r *api.AttachRequest) {
				r.IP, r.MAC = "10.6.0.9", "02:00:00:00:00:0a"
				r.Ports = []api.PortMapping{
					{Proto: "udp", HostIP: netip.MustParseAddr("198.18.0.1"), HostPort: 80, ContainerPort: 8080},
					{Proto: "tcp", HostPort: 81, ContainerPort: 1},
				}
			}),
		},
		{name: "CNI_ARGS", config: plain, env: "IP=10.6.0.8;MAC=02:00:00:00:00:0b;IgnoreUnknown=1;FOO=1", want: with(func(r *api.AttachRequest) { r.IP, r.MAC = "10.6.0.8", "02:00:00:00:00:0b" })},
		{name: "args before CNI_ARGS", config: `{"name":"net","args":{"cni":{"ips":["10.6.0.7"]}}}`, env: "IP=10.6.0.8", want: with(func(r *api.AttachRequest) { r.IP = "10.6.0.7" })},
		{name: "the same address twice", config: `{"name":"net","runtimeConfig":{"ips":["10.6.0.9","10.6.0.9/16","10.6.0.9"]}}`, want: with(func(r *api.AttachRequest) { r.IP = "10.6.0.9" })},
		{name: "the same address twice in args", config: `{"name":"net","args":{"cni":{"ips":["10.6.0.9/16","10.6.0.9/16"]}}}`, want: with(func(r *api.AttachRequest) { r.IP = "10.6.0.9" })},
		{
			name: "the same port twice", config: `{"name":"net","runtimeConfig":{"portMappings":[{"hostPort":80,"containerPort":1},{"hostPort":80,"containerPort":1,"protocol":"TCP","hostIP":"0.0.0.0"}]}}`,
			want: with(func(r *api.AttachRequest) {
				r.Ports = []api.PortMapping{{Proto: "tcp", HostPort: 80, ContainerPort: 1}}
			}),
		},
		{name: "a pod's name", config: plain, env: "IgnoreUnknown=1;K8S_POD_NAME=web", want: with(func(r *api.AttachRequest) { r.ContainerName = "web" })},
		{name: "a long id", config: plain, id: long, want: with(func(r *api.AttachRequest) {
			r.ID, r.ContainerID, r.ContainerName = endpointID("net", long, "eth0"), "", long
		})},

		{name: "an id too long", config: plain, id: strings.Repeat("a", 254), code: types.ErrInvalidEnvironmentVariables, says: "CNI_CONTAINERID"},
		{name: "interface name", config: plain, ifname: "e;th", code: types.ErrInvalidEnvironmentVariables, says: "CNI_IFNAME"},
		{name: "loopback", config: plain, ifname: "lo", code: types.ErrInvalidEnvironmentVariables, says: "loopback"},
		{name: "unknown argument", config: plain, env: "FOO=1", code: types.ErrInvalidEnvironmentVariables, says: "CNI_ARGS"},
		{name: "the library's own field", config: plain, env: "CommonArgs=1", code: types.ErrInvalidEnvironmentVariables, says: "CNI_ARGS"},
		{name: "no JSON", config: `{`, code: types.ErrDecodingFailure},
		{name: "no object", config: `[]`, code: types.ErrDecodingFailure},
		{name: "mistyped key", config: `{"name":"net","nettwerk":"web"}`, code: types.ErrUnsupportedField, says: `"nettwerk"`},
		{name: "another case", config: `{"name":"net","Network":"web"}`, code: types.ErrUnsupportedField, says: `"Network"`},
		{name: "ipam", config: `{"name":"net","ipam":{"type":"host-local"}}`, code: types.ErrUnsupportedField, says: "host-local"},
		{name: "a path for a network", config: `{"name":"net","network":"../x"}`, code: types.ErrInvalidNetworkConfig, says: "network"},
		{name: "a relative socket", config: `{"name":"net","socket":"x"}`, code: types.ErrInvalidNetworkConfig, says: "socket"},
		{name: "no capability of ours", config: `{"name":"net","runtimeConfig":{"bandwidth":{}}}`, code: types.ErrUnsupportedField, says: "bandwidth"},
		{name: "two addresses", config: `{"name":"net","runtimeConfig":{"ips":["10.6.0.9","10.6.0.8"]}}`, code: types.ErrInvalidNetworkConfig, says: "2 addresses"},
		{name: "IPv6", config: `{"name":"net","runtimeConfig":{"ips":["fd00::1/64"]}}`, code: types.ErrInvalidNetworkConfig, says: "IPv4"},
		{name: "multicast MAC", config: plain, env: "MAC=01:00:00:00:00:00", code: types.ErrInvalidNetworkConfig, says: "unicast"},
		{name: "port 0", config: `{"name":"net","runtimeConfig":{"portMappings":[{"hostPort":0,"containerPort":1}]}}`, code: types.ErrInvalidNetworkConfig, says: "hostPort"},
		{name: "port 70000", config: `{"name":"net","runtimeConfig":{"portMappings":[{"hostPort":70000,"containerPort":1}]}}`, code: types.ErrInvalidNetworkConfig, says: "hostPort"},
		{name: "sctp", config: `{"name":"net","runtimeConfig":{"portMappings":[{"hostPort":1,"containerPort":1,"protocol":"sctp"}]}}`, code: types.ErrInvalidNetworkConfig, says: "sctp"},
		{name: "a range", config: `{"name":"net","runtimeConfig":{"portMappings":[{"hostPort":"1-9","containerPort":1}]}}`, code: types.ErrInvalidNetworkConfig, says: "portMappings"},
		{name: "too much in a port", config: `{"name":"net","runtimeConfig":{"portMappings":[{"hostPort":1,"containerPort":1,"x":1}]}}`, code: types.ErrInvalidNetworkConfig, says: "portMappings"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			args := &skel.CmdArgs{ContainerID: "c1", Netns: "/n", IfName: "eth0", Args: tt.env, StdinData: []byte(tt.config)}
			if tt.id != "" {
				args.ContainerID = tt.id
			}
			if tt.ifname != "" {
				args.IfName = tt.ifname
			}
			got, err := read(args)
			if code := failed(err); code != tt.code {
				t.Fatalf("code %d, want %d: %v", code, tt.code, err)
			}
			if tt.code != 0 {
				if !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), "\n") {
					t.Errorf("says %q", err)
				}
				return
			}
			if diff := cmp.Diff(tt.want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
				t.Error(diff)
			}
			if err := api.CheckEndpointID(got.ID); err != nil {
				t.Error(err)
			}
		})
	}
}

func read(args *skel.CmdArgs) (api.AttachRequest, error) {
	c, err := decode(args.StdinData, true)
	if err != nil {
		return api.AttachRequest{}, err
	}
	return asked(c, args)
}

// FuzzAsked: whatever a runtime writes is either refused with a code and one
// line, or becomes a request that the agent's own checks let pass.
func FuzzAsked(f *testing.F) {
	f.Add([]byte(plain), "", "c1", "eth0")
	f.Add([]byte(`{"name":"n","network":"w","runtimeConfig":{"ips":["10.6.0.9/16"],"mac":"02:00:00:00:00:01","portMappings":[{"hostPort":1,"containerPort":2}]},"prevResult":{"cniVersion":"1.0.0","interfaces":[{"name":"x"}],"ips":[{"address":"1.2.3.4/5","interface":9}]},"cniVersion":"1.0.0"}`), "IP=1.2.3.4;MAC=x", strings.Repeat("x", 90), "e")
	f.Fuzz(func(t *testing.T, config []byte, env, id, ifname string) {
		args := &skel.CmdArgs{ContainerID: id, Netns: "/n", IfName: ifname, Args: env, StdinData: config}
		req, err := read(args)
		if err == nil {
			for _, err := range []error{
				api.CheckEndpointID(req.ID), api.CheckIfName(req.IfName), api.CheckNetworkRef(req.Network),
				api.CheckContainerName(req.ContainerName), api.CheckPorts(req.Ports),
			} {
				if err != nil {
					t.Error(err)
				}
			}
		} else if code := failed(err); code == 0 || code == 999 || strings.ContainsAny(err.Error(), "\n\r\x00") {
			t.Errorf("code %d: %q", code, err)
		}
		if c, err := decode(config, false); err == nil {
			_, _ = c.previous() // it must not panic; the library's errors are as they are
		}
	})
}
