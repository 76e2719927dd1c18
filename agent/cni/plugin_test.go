package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

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

// ip runs ip(8) in the host's namespace.
func (h *host) ip(t *testing.T, args ...string) {
	t.Helper()
	out, err := exec.Command("nsenter", append([]string{"--net=" + h.netns, "ip"}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %v: %v %s", args, err, out)
	}
}

// dummy makes an interface that is there before the plugin.
func (h *host) dummy(t *testing.T, name string, more ...string) {
	t.Helper()
	h.ip(t, append(append([]string{"link", "add", name}, more...), "type", "veth", "peer", "name", name+"peer")...)
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
	for _, config := range []string{plain, `{"name":"net","nettwerk":1,"ipam":{"type":"x"},"network":"../x"}`} {
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

// TestGCNeedsTheList: without the list of what is valid, or with one that cannot
// be read as that, nothing is freed.
func TestGCNeedsTheList(t *testing.T) {
	for list, code := range map[string]uint{
		``:                                    types.ErrInvalidNetworkConfig,
		`,"cni.dev/Valid-Attachments":[]`:     types.ErrInvalidNetworkConfig,
		`,"cni.dev/valid-attachments":{}`:     types.ErrDecodingFailure,
		`,"cni.dev/valid-attachments":[{}]`:   types.ErrInvalidNetworkConfig,
		`,"cni.dev/valid-attachments":[null]`: types.ErrInvalidNetworkConfig,
		`,"cni.dev/valid-attachments":[{"container_id":"c1","ifname":"eth0"}]`: types.ErrInvalidNetworkConfig,
		`,"cni.dev/valid-attachments":[{"containerID":"c1"}]`:                  types.ErrInvalidNetworkConfig,
		`,"cni.dev/attachments":[{"ifname":"eth0"}]`:                           types.ErrInvalidNetworkConfig,

		`,"cni.dev/valid-attachments":[]`:   0,
		`,"cni.dev/valid-attachments":null`: 0, // libcni's empty list
		`,"cni.dev/attachments":[]`:         0,
	} {
		h := newHost(t)
		id := endpointID("net", "c1", "eth0")
		h.agent.endpoints[id] = api.Endpoint{ID: id, Network: "net", Source: api.SourceCNI}
		err := timed(h.plugin.gc)(h.args(`{"cniVersion":"1.1.0","name":"net"` + list + `}`))
		if _, left := h.agent.endpoints[id]; failed(err) != code || left != (code != 0) {
			t.Errorf("with %q: code %d, want %d: %v; left: %v", list, failed(err), code, err, left)
		}
	}
}

// TestAddTwice: an ADD without a DEL between is an error, as the specification
// has it, and leaves what is there as it is.
func TestAddTwice(t *testing.T) {
	h := newHost(t)
	h.dummy(t, "eth0")
	err := timed(h.plugin.add)(h.args(plain))
	if failed(err) != codeConflict || !strings.Contains(err.Error(), `"eth0"`) || !strings.Contains(err.Error(), "DEL") {
		t.Errorf("got %v", err)
	}
	if len(h.agent.asked) != 0 {
		t.Errorf("the agent was asked for %v", h.agent.asked)
	}
}

// TestCheckAsksAsAddDoes: CHECK refuses what the next ADD would refuse, and
// tells what the container was not given.
func TestCheckAsksAsAddDoes(t *testing.T) {
	h := newHost(t)
	id := endpointID("net", "c1", "eth0")
	h.dummy(t, "eth0", "address", "02:00:00:00:00:09")
	h.agent.endpoints[id] = api.Endpoint{
		ID: id, ContainerID: "c1", Network: "net", IP: netip.MustParseAddr("10.6.0.9"), PrefixLen: 16, MAC: "02:00:00:00:00:09",
		IfName: "eth0", Source: api.SourceCNI, Attached: true,
	}
	h.ip(t, "addr", "add", "10.6.0.9/16", "dev", "eth0")
	h.ip(t, "link", "set", "eth0", "up")
	const prev = `,"prevResult":{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"NS","mac":"02:00:00:00:00:09"}],"ips":[{"interface":0,"address":"10.6.0.9/16"}]}}`
	for _, tt := range []struct {
		more, env, says string
		code            uint
	}{
		{"", "", "", 0},
		{`,"runtimeConfig":{"ips":["10.6.0.9","10.6.0.9"],"mac":"02:00:00:00:00:09"}`, "", "", 0},
		{`,"runtimeConfig":{"ips":["10.6.0.8","10.6.0.9"]}`, "", "2 addresses", types.ErrInvalidNetworkConfig},
		{`,"runtimeConfig":{"ips":["10.6.0.8"]}`, "", "10.6.0.8", codeDiffers},
		{`,"runtimeConfig":{"mac":"02:00:00:00:00:08"}`, "", "02:00:00:00:00:08", codeDiffers},
		{`,"runtimeConfig":{"bandwidth":{}}`, "", "bandwidth", types.ErrUnsupportedField},
		{"", "FOO=1", "CNI_ARGS", types.ErrInvalidEnvironmentVariables},
	} {
		args := h.args(strings.Replace(`{"cniVersion":"1.0.0","name":"net"`+tt.more+prev, "NS", h.netns, 1))
		args.Args = tt.env
		err := timed(h.plugin.check)(args)
		if failed(err) != tt.code || err != nil && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s %s: code %d, want %d: %v", tt.more, tt.env, failed(err), tt.code, err)
		}
	}

	// A plugin after us has changed the MAC address: no packet passes.
	h.ip(t, "link", "set", "eth0", "address", "02:00:00:00:00:0a")
	err := timed(h.plugin.check)(h.args(strings.Replace(`{"cniVersion":"1.0.0","name":"net"`+prev, "NS", h.netns, 1)))
	if failed(err) != codeDiffers || !strings.Contains(err.Error(), "02:00:00:00:00:0a") || !strings.Contains(err.Error(), `capability "mac"`) {
		t.Errorf("another MAC address: %v", err)
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
	switch os.Getenv("BE_THE_PLUGIN") {
	case "":
	case "impatient":
		os.Exit(run(100 * time.Millisecond))
	default:
		os.Exit(Main())
	}
	os.Exit(m.Run())
}

// TestSlowSender: a configuration that never ends is waited for no longer than
// its time, also where only a part of it comes.
func TestSlowSender(t *testing.T) {
	for _, part := range []string{"", plain[:9], plain} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		cmd := exec.CommandContext(ctx, os.Args[0])
		cmd.Env = []string{"BE_THE_PLUGIN=impatient", "CNI_COMMAND=DEL", "CNI_PATH=/x", "CNI_CONTAINERID=c1", "CNI_IFNAME=eth0", "CNI_NETNS=/n"}
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		cmd.Stdout = &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(stdin, part) // it may have ended
		err = cmd.Wait()
		_ = stdin.Close()
		cancel()
		var said types.Error
		if json.Unmarshal(out.Bytes(), &said) != nil || cmd.ProcessState.ExitCode() != 1 || said.Code != types.ErrIOFailure {
			t.Errorf("after %q: %v %s", part, err, out.String())
		}
	}
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
