package cli

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/socketplane/socketplane/agent/api"
)

// recordingService answers over the real handler and client, so that the
// command line meets what an agent would send.
type recordingService struct {
	api.Service // what a test does not expect fails loudly
	networks    []api.Network
	endpoints   []api.Endpoint
	remote      []api.Endpoint // of other hosts
	attached    []api.AttachRequest
	released    []string
	status      api.Status
	drops       map[string]api.Drops
	routed      []string
}

func (s *recordingService) Status(context.Context) (api.Status, error) { return s.status, nil }

func (s *recordingService) Networks(context.Context) ([]api.Network, error) { return s.networks, nil }

func (s *recordingService) Network(_ context.Context, id string) (api.Network, error) {
	for _, n := range s.networks {
		if n.ID == id {
			return n, nil
		}
	}
	return api.Network{}, api.Errorf(api.CodeNotFound, "network %q does not exist", id)
}

func (s *recordingService) CreateNetwork(_ context.Context, req api.CreateNetworkRequest) (api.Network, error) {
	n := testNetwork()
	n.ID = req.ID
	return n, nil
}

func (s *recordingService) DeleteNetwork(ctx context.Context, id string) error {
	if _, err := s.Network(ctx, id); err != nil {
		return err
	}
	return api.Errorf(api.CodeInUse, "network %q has 2 endpoints; remove them first", id)
}

func (s *recordingService) Endpoints(context.Context) ([]api.Endpoint, error) {
	return s.endpoints, nil
}

func (s *recordingService) AllEndpoints(context.Context) ([]api.Endpoint, error) {
	return append(slices.Clone(s.endpoints), s.remote...), nil
}

func (s *recordingService) Endpoint(_ context.Context, ref string) (api.Endpoint, error) {
	for _, e := range s.endpoints {
		if e.ID == ref || e.ContainerName == ref || strings.HasPrefix(e.ID, ref) {
			return e, nil
		}
	}
	return api.Endpoint{}, api.Errorf(api.CodeNotFound, "container %q has no endpoint on this host", ref)
}

func (s *recordingService) Attach(ctx context.Context, req api.AttachRequest) (api.Endpoint, error) {
	if _, err := s.Network(ctx, req.Network); err != nil {
		return api.Endpoint{}, err
	}
	s.attached = append(s.attached, req)
	return s.endpoints[0], nil
}

func (s *recordingService) Release(_ context.Context, id string) error {
	s.released = append(s.released, id)
	return nil
}

func testNetwork() api.Network {
	return api.Network{ID: "web", Subnet: netip.MustParsePrefix("10.6.0.0/16"), Gateway: netip.MustParseAddr("10.6.0.1"), VLAN: 7, VNI: 10007, MTU: 1450}
}

func testService() *recordingService {
	id := strings.Repeat("0123456789abcdef", 4)
	return &recordingService{
		networks: []api.Network{testNetwork()},
		endpoints: []api.Endpoint{
			{
				ID: id, ContainerID: id, ContainerName: "shop", Network: "web", IP: netip.MustParseAddr("10.6.0.2"), MAC: "02:42:0a:06:00:02",
				Gateway: netip.MustParseAddr("10.6.0.1"), PrefixLen: 16, MTU: 1450, Port: "spv1", Host: "h1", Source: api.SourceDocker, Attached: true,
			},
			{ID: "blue", ContainerID: "blue", Network: "web", IP: netip.MustParseAddr("10.6.0.3"), Host: "h1", Source: api.SourceConnect},
		},
		status: api.Status{Version: "1", PID: 9, Host: api.Host{ID: "u", Name: "h1", VTEP: "198.18.0.1", Datapath: "netdev"}, Ready: true, Store: "embedded", Bridge: "docker0-ovs", Uplinks: []string{"eth0", "eth1"}},
	}
}

// serveTest puts svc on a socket and gives its path.
func serveTest(t *testing.T, svc api.Service) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: api.NewHandler(svc, slog.New(slog.DiscardHandler))}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	return socket
}

// command runs one command line.
func command(t *testing.T, socket string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close() //nolint:errcheck // only read from
	var out, errOut bytes.Buffer
	env := map[string]string{"SOCKETPLANE_CONFIG": filepath.Join(t.TempDir(), "c.toml"), "SOCKETPLANE_API_SOCKET": socket}
	if err := os.WriteFile(env["SOCKETPLANE_CONFIG"], nil, 0o600); err != nil {
		t.Fatal(err)
	}
	a := &app{
		stdin: null, stdout: &out, stderr: &errOut, hostname: func() (string, error) { return "h1", nil },
		getenv: func(k string) (string, bool) { v, ok := env[k]; return v, ok },
	}
	code = a.run(t.Context(), args)
	return code, out.String(), errOut.String()
}

func TestOutput(t *testing.T) {
	socket := serveTest(t, testService())
	empty := serveTest(t, &recordingService{})
	lone := serveTest(t, &recordingService{networks: []api.Network{testNetwork()}})
	id := strings.Repeat("0123456789abcdef", 4)
	network := "{\n  \"id\": \"web\",\n  \"subnet\": \"10.6.0.0/16\",\n  \"gateway\": \"10.6.0.1\",\n  \"vlan\": 7,\n  \"vni\": 10007,\n  \"mtu\": 1450\n}\n"
	shop := "{\n  \"container_id\": \"" + id + "\",\n  \"container_name\": \"shop\",\n  \"network\": \"web\",\n  \"ip\": \"10.6.0.2\",\n  \"mac\": \"02:42:0a:06:00:02\",\n  \"gateway\": \"10.6.0.1\",\n  \"port\": \"spv1\",\n  \"host\": \"h1\"\n}\n"
	indent := func(s string) string {
		return "[\n  " + strings.ReplaceAll(strings.TrimSuffix(s, "\n"), "\n", "\n  ") + "\n]\n"
	}
	tests := []struct{ socket, args, want string }{
		{socket, "network list", "NETWORK   SUBNET        GATEWAY    VLAN   VNI     MTU    ENDPOINTS\nweb       10.6.0.0/16   10.6.0.1   7      10007   1450   2\n"},
		{socket, "network ls -o json", indent(strings.Replace(network, "1450\n", "1450,\n  \"endpoint_count\": 2\n", 1))},
		{lone, "network info web -o json", strings.Replace(network, "1450\n", "1450,\n  \"endpoints\": []\n", 1)},
		{lone, "network inspect web", "NETWORK   SUBNET        GATEWAY    VLAN   VNI     MTU\nweb       10.6.0.0/16   10.6.0.1   7      10007   1450\n"},
		{socket, "network create web 10.6.0.0/16 -o json", network},
		{empty, "network list -o json", "[]\n"},
		{empty, "info -o json", "[]\n"},
		{empty, "info", "CONTAINER   NAME   NETWORK   IP   MAC   GATEWAY   PORT\n"},
		{socket, "info -o json", indent(shop)},
		{socket, "info shop -o json", shop},
		{socket, "info", "CONTAINER      NAME   NETWORK   IP         MAC                 GATEWAY    PORT\n0123456789ab   shop   web       10.6.0.2   02:42:0a:06:00:02   10.6.0.1   spv1\n"},
		{socket, "agent status", "Version:        1\nPID:            9\nReady:          yes\nHost:           h1 (u)\nTunnel address: 198.18.0.1\nBridge:         docker0-ovs (datapath netdev)\nUplinks:        eth0, eth1\nStore:          embedded\nPeers:          none\n"},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			code, out, errOut := command(t, tt.socket, strings.Fields(tt.args)...)
			if code != 0 || errOut != "" {
				t.Fatalf("exit %d, %s", code, errOut)
			}
			if diff := cmp.Diff(tt.want, out); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestFailures(t *testing.T) {
	socket := serveTest(t, testService())
	nobody := filepath.Join(t.TempDir(), "none.sock")
	tests := []struct {
		socket string
		args   []string
		code   int
		says   string
	}{
		{socket, []string{"nonsense"}, 2, "nonsense"},
		{socket, []string{"network", "nonsense"}, 2, "nonsense"},
		{socket, []string{"help", "nonsense"}, 2, "nonsense"},
		{socket, []string{"network", "create"}, 2, "NAME"},
		{socket, []string{"network", "create", "a", "b", "c"}, 2, "too many"},
		{socket, []string{"network", "create", "../x"}, 2, "network name"},
		{socket, []string{"network", "create", "a\x1b[31m"}, 2, "network name"},
		{socket, []string{"network", "create", strings.Repeat("a", 65)}, 2, "65 bytes"},
		{socket, []string{"network", "create", "x", "10.6.0.1/16"}, 2, "did you mean 10.6.0.0/16"},
		{socket, []string{"network", "create", "x", "10.6.0.0/31"}, 2, "/30"},
		{socket, []string{"network", "create", "x", "10.6.0.0/24", "--gateway", "x"}, 2, "not an IPv4 address"},
		{socket, []string{"network", "create", "x", "--gateway", "10.6.0.1"}, 2, "needs a CIDR"},
		{socket, []string{"network", "create", "x", "--dynamic", "10.6.0.0/24"}, 2, "needs a CIDR"},
		{socket, []string{"network", "create", "x", "10.6.0.0/24", "--dynamic", "10.7.0.0/24"}, 2, "not a part of subnet 10.6.0.0/24"},
		{socket, []string{"network", "info", "none-such"}, 1, "none-such"},
		{socket, []string{"network", "delete", "web"}, 1, "2 endpoints"},
		{socket, []string{"network", "list", "--nonsense"}, 2, "--nonsense"},
		{socket, []string{"network", "list", "-o", "yaml"}, 2, "table or json"},
		{socket, []string{"info", "absent"}, 1, "absent"},
		{socket, []string{"disconnect", "absent"}, 1, "absent"},
		{socket, []string{"disconnect", "shop"}, 1, "shop"},
		{socket, []string{"connect"}, 2, "--netns"},
		{socket, []string{"connect", "--netns", "/x"}, 2, "--id"},
		{socket, []string{"connect", "--netns", "/x", "--id", "a;b"}, 2, "a;b"},
		{socket, []string{"connect", "--netns", "/x", "--id", "a", "--ip", "x"}, 2, "IPv4"},
		{socket, []string{"connect", "--netns", "/x", "--id", "a", "--ifname", "an-interface-name"}, 2, "interface name"},
		{socket, []string{"connect", "--netns", "/x", "--id", "a", "-p", "80:80/sctp"}, 2, "neither tcp nor udp"},
		{socket, []string{"connect", "--netns", "/x", "--id", "a", "-p", "x\x1b[31m"}, 2, "8080:80"},
		{socket, []string{"run"}, 125, "image"},
		{nobody, []string{"run", "lab"}, 125, "agent start"},
		{nobody, []string{"network", "list"}, 3, "agent start"},
		{nobody, []string{"agent", "status"}, 3, "agent start"},
		{nobody, []string{"info"}, 3, "agent start"},
		{socket, []string{"start"}, 2, "container"},
		{socket, []string{"rm"}, 2, "container"},
		{socket, []string{"--config", "/none/such", "info"}, 2, "/none/such"},
	}
	for _, tt := range tests {
		t.Run(strings.Join(tt.args, " "), func(t *testing.T) {
			code, out, errOut := command(t, tt.socket, tt.args...)
			if code != tt.code {
				t.Errorf("exit %d, want %d", code, tt.code)
			}
			if out != "" {
				t.Errorf("stdout: %q", out)
			}
			if strings.Count(errOut, "\n") != 1 || !strings.HasPrefix(errOut, "socketplane: ") || !strings.Contains(errOut, tt.says) {
				t.Errorf("stderr %q, want one line that says %q", errOut, tt.says)
			}
			if strings.Contains(errOut, "\x1b") {
				t.Errorf("stderr %q has a control character", errOut)
			}
		})
	}
}

func TestConnectDisconnect(t *testing.T) {
	svc := testService()
	socket := serveTest(t, svc)
	if code, _, errOut := command(t, socket, "connect", "-n", "web", "--netns", "/run/netns/blue", "--id", "blue", "--ip", "10.6.0.9", "-p", "8080:80", "-p", "53/udp"); code != 0 {
		t.Fatal(errOut)
	}
	want := []api.AttachRequest{{ID: "blue", Network: "web", IP: "10.6.0.9", Source: api.SourceConnect, NetNS: "/run/netns/blue", IfName: "eth0", Ports: []api.PortMapping{
		{Proto: "tcp", HostPort: 8080, ContainerPort: 80}, {Proto: "udp", ContainerPort: 53},
	}}}
	if diff := cmp.Diff(want, svc.attached, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	if code, out, errOut := command(t, socket, "disconnect", "blue"); code != 0 || out != "blue\n" {
		t.Fatal(code, out, errOut)
	}
	if diff := cmp.Diff([]string{"blue"}, svc.released); diff != "" {
		t.Error(diff)
	}
	if code, _, _ := command(t, socket, "disconnect", "blu"); code != exitFailed || len(svc.released) != 1 {
		t.Error("the beginning of an id was enough to disconnect")
	}
}

// Every command explains itself and shows an example.
func TestHelp(t *testing.T) {
	a := &app{stdout: io.Discard, stderr: io.Discard}
	root := a.rootCommand()
	for _, path := range []string{
		"agent run", "agent start", "agent stop", "agent restart", "agent status", "agent logs",
		"network create", "network list", "network info", "network delete", "network route", "network route add", "network route rm",
		"run", "start", "stop", "restart", "rm", "attach", "info", "connect", "disconnect", "deps", "version", "help",
	} {
		cmd, rest, err := root.Find(strings.Fields(path))
		if err != nil || len(rest) > 0 {
			if path == "help" { // added when a command line is run
				continue
			}
			t.Errorf("%s: %v %v", path, rest, err)
			continue
		}
		if cmd.Long == "" || cmd.Example == "" || cmd.Short == "" {
			t.Errorf("%s lacks a help text or an example", path)
		}
	}
}

func TestTail(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	var long strings.Builder
	for range 5000 {
		long.WriteString("a line of the log that is some words long\n")
	}
	tests := []struct {
		name, text string
		n          int
		want       string
	}{
		{"empty", "", 3, ""},
		{"fewer", "a\nb\n", 3, "a\nb\n"},
		{"as many", "a\nb\nc\n", 3, "a\nb\nc\n"},
		{"more", "a\nb\nc\nd\n", 3, "b\nc\nd\n"},
		{"unfinished", "a\nb\nc", 2, "b\nc"},
		{"none", "a\nb\n", 0, ""},
		{"blocks", long.String() + "x\ny\n", 2, "x\ny\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := os.WriteFile(path, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			tl := &tail{path: path, out: &out}
			defer tl.close()
			if err := tl.last(tt.n); err != nil {
				t.Fatal(err)
			}
			if out.String() != tt.want {
				t.Errorf("%q, want %q", out.String(), tt.want)
			}
		})
	}
}

func TestOlder(t *testing.T) {
	for _, tt := range []struct {
		found, needed string
		want          bool
	}{
		{"3.1.0", "2.13", false},
		{"2.9.8", "2.13", true},
		{"2.13", "2.13", false},
		{"20.10.24", "20.10", false},
		{"19.03", "20.10", true},
		{"28.2.2", "20.10", false},
		{"3", "3.1", true},
		{"unknown", "1.0", false},
	} {
		if got := older(tt.found, tt.needed); got != tt.want {
			t.Errorf("older(%s, %s) = %v", tt.found, tt.needed, got)
		}
	}
}
