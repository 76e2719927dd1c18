package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/socketplane/socketplane/agent/api"
)

// fakeAgent is an agent that remembers, and gives each endpoint the loopback
// interface: the one thing that a namespace of a test has.
type fakeAgent struct {
	api.Service // what a test does not expect fails loudly
	endpoints   map[string]api.Endpoint
	asked       []api.AttachRequest
	fails       error
	status      api.Status
}

func (f *fakeAgent) Attach(_ context.Context, req api.AttachRequest) (api.Endpoint, error) {
	if f.fails != nil {
		return api.Endpoint{}, f.fails
	}
	f.asked = append(f.asked, req)
	e := api.Endpoint{
		ID: req.ID, ContainerID: req.ContainerID, Network: req.Network, IP: netip.MustParseAddr("127.0.0.1"), PrefixLen: 8,
		Gateway: netip.MustParseAddr("127.0.0.254"), MTU: 1450, Port: "spv1", IfName: req.IfName, Source: req.Source, Attached: true,
	}
	f.endpoints[req.ID] = e
	return e, nil
}

func (f *fakeAgent) Endpoint(_ context.Context, ref string) (api.Endpoint, error) {
	if e, ok := f.endpoints[ref]; ok {
		return e, f.fails
	}
	return api.Endpoint{}, api.Errorf(api.CodeNotFound, "no container %q", ref)
}

func (f *fakeAgent) Endpoints(context.Context) ([]api.Endpoint, error) {
	var list []api.Endpoint
	for _, e := range f.endpoints {
		list = append(list, e)
	}
	return list, f.fails
}

func (f *fakeAgent) Release(_ context.Context, id string) error {
	delete(f.endpoints, id)
	return f.fails
}

func (f *fakeAgent) Status(context.Context) (api.Status, error) { return f.status, f.fails }

func (f *fakeAgent) Network(_ context.Context, id string) (api.Network, error) {
	if id != "net" {
		return api.Network{}, api.Errorf(api.CodeNotFound, "network %q is not there", id)
	}
	return api.Network{ID: id}, nil
}

// host is a plugin with its fake agent, and a namespace whose lo is up.
type host struct {
	agent  *fakeAgent
	out    bytes.Buffer
	plugin plugin
	netns  string
}

func newHost(t *testing.T) *host {
	t.Helper()
	h := &host{agent: &fakeAgent{endpoints: map[string]api.Endpoint{}, status: api.Status{Ready: true}}}
	h.plugin = plugin{out: &h.out, connect: func(string) api.Service { return h.agent }}
	made := make(chan error)
	end := make(chan struct{})
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			h.netns = fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid())
			err = exec.Command("ip", "link", "set", "lo", "up").Run() // a child of this thread
		}
		made <- err
		<-end
	}()
	if err := <-made; err != nil {
		t.Fatal("make a network namespace (root is needed): ", err)
	}
	t.Cleanup(func() { close(end) })
	return h
}

func (h *host) args(config string) *skel.CmdArgs {
	return &skel.CmdArgs{ContainerID: "c1", Netns: h.netns, IfName: "eth0", StdinData: []byte(config)}
}

// failed gives the code of a command's failure, 0 when it did not fail.
func failed(err error) uint {
	if e, ok := errors.AsType[*types.Error](err); ok {
		return e.Code
	}
	if err != nil {
		return 999
	}
	return 0
}

const plain = `{"cniVersion":"1.1.0","name":"net","type":"socketplane-cni"}`

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
		{name: "a pod's name", config: plain, env: "IgnoreUnknown=1;K8S_POD_NAME=web", want: with(func(r *api.AttachRequest) { r.ContainerName = "web" })},
		{name: "a long id", config: plain, id: long, want: with(func(r *api.AttachRequest) {
			r.ID, r.ContainerID, r.ContainerName = endpointID("net", long, "eth0"), "", long
		})},

		{name: "an id too long", config: plain, id: strings.Repeat("a", 254), code: types.ErrInvalidEnvironmentVariables, says: "CNI_CONTAINERID"},
		{name: "interface name", config: plain, ifname: "e;th", code: types.ErrInvalidEnvironmentVariables, says: "CNI_IFNAME"},
		{name: "unknown argument", config: plain, env: "FOO=1", code: types.ErrInvalidEnvironmentVariables, says: "CNI_ARGS"},
		{name: "the library's own field", config: plain, env: "CommonArgs=1", code: types.ErrInvalidEnvironmentVariables, says: "CNI_ARGS"},
		{name: "no JSON", config: `{`, code: types.ErrDecodingFailure},
		{name: "no object", config: `[]`, code: types.ErrDecodingFailure},
		{name: "mistyped key", config: `{"name":"net","netwrok":"web"}`, code: types.ErrUnsupportedField, says: `"netwrok"`},
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

func TestResult(t *testing.T) {
	h := newHost(t)
	args := h.args(`{"cniVersion":"0.4.0","name":"net","dns":{"nameservers":["10.6.0.1"]},"prevResult":{"cniVersion":"0.4.0",` +
		`"interfaces":[{"name":"other0"}],"ips":[{"version":"4","address":"192.0.2.1/24","interface":0}],"routes":[{"dst":"192.0.2.0/24"}]}}`)
	args.IfName = "lo"
	if err := h.withLo(args, h.plugin.add); err != nil {
		t.Fatal(err)
	}
	var got struct {
		CNIVersion string
		Interfaces []struct{ Name, Sandbox string }
		IPs        []struct {
			Version, Address, Gateway string
			Interface                 int
		}
		Routes []json.RawMessage
		DNS    types.DNS
	}
	if err := json.Unmarshal(h.out.Bytes(), &got); err != nil {
		t.Fatalf("%v in %s", err, h.out.String())
	}
	if got.CNIVersion != "0.4.0" || len(got.Interfaces) != 3 || got.Interfaces[1].Name != "spv1" || got.Interfaces[2].Sandbox != h.netns ||
		len(got.IPs) != 2 || got.IPs[1].Address != "127.0.0.1/8" || got.IPs[1].Interface != 2 || got.IPs[1].Gateway != "127.0.0.254" ||
		len(got.Routes) != 1 || !slices.Equal(got.DNS.Nameservers, []string{"10.6.0.1"}) {
		t.Errorf("got %+v", got)
	}
}

// withLo runs a command as if lo were what the agent had made: the agent's own
// check of names forbids it, and a real interface is the system tests' matter.
func (h *host) withLo(args *skel.CmdArgs, command func(context.Context, *skel.CmdArgs) error) error {
	asked := *args
	asked.IfName = "eth0"
	agent := h.agent
	h.plugin.connect = func(string) api.Service { return asLo{agent} }
	return timed(command)(&asked)
}

type asLo struct{ *fakeAgent }

func (a asLo) Attach(ctx context.Context, req api.AttachRequest) (api.Endpoint, error) {
	e, err := a.fakeAgent.Attach(ctx, req)
	e.IfName = "lo"
	return e, err
}

func TestAddThatCannotTellIsUndone(t *testing.T) {
	h := newHost(t)
	// The agent says that it made eth0, and there is none.
	if err := timed(h.plugin.add)(h.args(plain)); failed(err) != codeDiffers {
		t.Errorf("got %v", err)
	}
	if len(h.agent.asked) != 1 || len(h.agent.endpoints) != 0 {
		t.Errorf("asked %v, left %v", h.agent.asked, h.agent.endpoints)
	}
}

func TestDelNeedsNothing(t *testing.T) {
	h := newHost(t)
	for _, config := range []string{plain, `{"name":"net","netwrok":1,"ipam":{"type":"x"},"network":"../x"}`} {
		args := h.args(config)
		args.Netns = ""
		for range 2 {
			if err := timed(h.plugin.del)(args); err != nil {
				t.Errorf("%s: %v", config, err)
			}
		}
	}
}

func TestCollectsOnlyItsOwn(t *testing.T) {
	h := newHost(t)
	put := func(config, container, ifname string, source api.Source) string {
		id := endpointID(config, container, ifname)
		h.agent.endpoints[id] = api.Endpoint{ID: id, Network: "net", Source: source}
		return id
	}
	valid := put("net", "c1", "eth0", api.SourceCNI)
	put("net", "c1", "eth1", api.SourceCNI)
	put("net", "c2", "eth0", api.SourceCNI)
	old := put("net", "c3", "eth0", api.SourceCNI)
	other := put("other", "c2", "eth0", api.SourceCNI) // of the same network
	docker := put("net", "c4", "eth0", api.SourceDocker)
	args := h.args(`{"cniVersion":"1.1.0","name":"net","cni.dev/valid-attachments":[{"containerID":"c1","ifname":"eth0"}],"cni.dev/attachments":[{"containerID":"c3","ifname":"eth0"}]}`)
	if err := timed(h.plugin.gc)(args); err != nil {
		t.Fatal(err)
	}
	var left []string
	for id := range h.agent.endpoints {
		left = append(left, id)
	}
	want := []string{valid, old, other, docker}
	slices.Sort(left)
	slices.Sort(want)
	if diff := cmp.Diff(want, left); diff != "" {
		t.Error(diff)
	}
}

func TestCodes(t *testing.T) {
	h := newHost(t)
	for _, tt := range []struct {
		err  error
		code uint
	}{
		{api.Errorf(api.CodeInvalid, "x"), 7},
		{api.Errorf(api.CodeUnavailable, "x"), 11},
		{context.DeadlineExceeded, 11},
		{fmt.Errorf("x: %w", api.ErrUnreachable), 11},
		{api.Errorf(api.CodeInternal, "x"), 100},
		{api.Errorf(api.CodeNotFound, "x"), 101},
		{api.Errorf(api.CodeConflict, "x"), 102},
		{api.Errorf(api.CodeInUse, "x"), 103},
		{api.Errorf(api.CodeExhausted, "x"), 104},
		{api.Errorf("of tomorrow", "x"), 100},
	} {
		if got := codeOf(tt.err); got != tt.code {
			t.Errorf("%v: code %d, want %d", tt.err, got, tt.code)
		}
		h.agent.fails = tt.err
		if errors.Is(tt.err, api.ErrUnreachable) {
			continue // it is waited for
		}
		if got := failed(timed(h.plugin.del)(h.args(plain))); got != tt.code {
			t.Errorf("DEL, %v: code %d, want %d", tt.err, got, tt.code)
		}
	}
}

func TestStatus(t *testing.T) {
	for _, tt := range []struct {
		name   string
		status api.Status
		fails  error
		config string
		code   uint
	}{
		{"ready", api.Status{Ready: true, Problems: []string{"a record cannot be decoded"}}, nil, plain, 0},
		{"away", api.Status{}, api.ErrUnreachable, plain, 50},
		{"starting", api.Status{}, nil, plain, 50},
		{"in trouble", api.Status{Problems: []string{"no switch"}}, nil, plain, 51},
		{"no such network", api.Status{Ready: true}, nil, `{"name":"nonet"}`, 50},
	} {
		h := newHost(t)
		h.agent.status, h.agent.fails = tt.status, tt.fails
		if got := failed(timed(h.plugin.status)(h.args(tt.config))); got != tt.code {
			t.Errorf("%s: code %d, want %d", tt.name, got, tt.code)
		}
	}
}

// TestMain lets the test's binary be the plugin, as the program is by its name.
func TestMain(m *testing.M) {
	if os.Getenv("BE_THE_PLUGIN") != "" {
		os.Exit(Main())
	}
	os.Exit(m.Run())
}

// TestProgram: what goes in by the environment and stdin comes out as the
// specification has it.
func TestProgram(t *testing.T) {
	call := func(stdin string, env ...string) (string, error) {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(env, "BE_THE_PLUGIN=1", "CNI_PATH=/x", "CNI_CONTAINERID=c1", "CNI_IFNAME=eth0", "CNI_NETNS=/n")
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.Output()
		return string(out), err
	}
	out, err := call("", "CNI_COMMAND=VERSION")
	if err != nil || !strings.Contains(out, `"supportedVersions":["0.3.1","0.4.0","1.0.0","1.1.0"]`) {
		t.Errorf("VERSION: %v %s", err, out)
	}
	if out, err := call(""); err != nil || out != "" {
		t.Errorf("without a command: %v %s", err, out)
	}
	for _, tt := range []struct {
		name, stdin, command string
		code                 uint
	}{
		{"too much", strings.Repeat(" ", maxConfig+1), "ADD", 6},
		{"nothing", "", "ADD", 6},
		{"no name", `{"cniVersion":"1.0.0"}`, "ADD", 7},
		{"an old version", `{"cniVersion":"0.2.0","name":"net"}`, "ADD", 1},
		{"GC before its time", `{"cniVersion":"1.0.0","name":"net"}`, "GC", 1},
		{"no command", `{"cniVersion":"1.0.0","name":"net"}`, "FLY", 4},
		{"nobody there", `{"cniVersion":"1.1.0","name":"net","socket":"` + filepath.Join(t.TempDir(), "s") + `"}`, "STATUS", 50},
	} {
		out, err := call(tt.stdin, "CNI_COMMAND="+tt.command)
		var said types.Error
		if json.Unmarshal([]byte(out), &said) != nil || err == nil || said.Code != tt.code || said.Msg == "" {
			t.Errorf("%s: %v %s", tt.name, err, out)
		}
	}
}
