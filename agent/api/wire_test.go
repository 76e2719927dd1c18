package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// fakeService answers with what it was given, and remembers what it was asked.
type fakeService struct {
	asked []any
	err   error
}

var (
	aNetwork = Network{
		ID: "foo", Subnet: netip.MustParsePrefix("10.6.0.0/16"), Gateway: netip.MustParseAddr("10.6.0.1"), VLAN: 7, VNI: 10007, MTU: 1450, Dynamic: netip.MustParsePrefix("10.6.128.0/17"), AllowMetadata: true,
	}
	somePorts = []PortMapping{
		{Proto: "tcp", HostPort: 8080, ContainerPort: 80},
		{Proto: "udp", HostIP: netip.MustParseAddr("127.0.0.1"), ContainerPort: 53},
	}
	aHold      = Hold{Network: "foo", IP: netip.MustParseAddr("10.6.0.2"), PrefixLen: 16, Gateway: netip.MustParseAddr("10.6.0.1")}
	anEndpoint = Endpoint{
		ID: "c1", ContainerID: "c1", ContainerName: "web", Network: "foo", IP: netip.MustParseAddr("10.6.0.2"), MAC: "02:42:0a:06:00:02",
		Gateway: netip.MustParseAddr("10.6.0.1"), PrefixLen: 16, MTU: 1450, Port: "spv1", Peer: "spp1", IfName: "eth0", Ports: somePorts, Host: "h1", Source: SourceDocker, Attached: true,
		AllowAddresses: []netip.Prefix{netip.MustParsePrefix("10.6.0.200/32")}, Forwarding: true,
		Routes: []netip.Prefix{netip.MustParsePrefix("10.99.0.0/16")},
	}
	someDrops = map[string]Drops{"c1": {"source": 3}}
	aStatus   = Status{
		Version: "1", PID: 7, Host: Host{ID: "x", Name: "h1", VTEP: "192.0.2.1", Datapath: "netdev"}, Ready: true, Problems: []string{"p"},
		Store: "embedded", Bridge: "docker0-ovs", Peers: []Peer{{ID: "y", Name: "h2", VTEP: "192.0.2.2", State: "alive", Tunnel: "vxlan-1"}},
	}
)

func (f *fakeService) ask(what ...any) error { f.asked = what; return f.err }

func (f *fakeService) Status(context.Context) (Status, error) { return aStatus, f.ask("status") }
func (f *fakeService) CreateNetwork(_ context.Context, r CreateNetworkRequest) (Network, error) {
	return aNetwork, f.ask("create", r)
}

func (f *fakeService) Networks(context.Context) ([]Network, error) {
	return []Network{aNetwork}, f.ask("networks")
}

func (f *fakeService) Network(_ context.Context, id string) (Network, error) {
	return aNetwork, f.ask("network", id)
}

func (f *fakeService) DeleteNetwork(_ context.Context, id string) error { return f.ask("delete", id) }

func (f *fakeService) Endpoints(context.Context) ([]Endpoint, error) {
	return []Endpoint{anEndpoint}, f.ask("endpoints")
}

func (f *fakeService) AllEndpoints(context.Context) ([]Endpoint, error) {
	return []Endpoint{anEndpoint, anEndpoint}, f.ask("all endpoints")
}

func (f *fakeService) Drops(context.Context) (map[string]Drops, error) {
	return someDrops, f.ask("drops")
}

func (f *fakeService) Endpoint(_ context.Context, ref string) (Endpoint, error) {
	return anEndpoint, f.ask("endpoint", ref)
}

func (f *fakeService) Reserve(_ context.Context, r ReserveRequest) (Endpoint, error) {
	return anEndpoint, f.ask("reserve", r)
}

func (f *fakeService) Hold(_ context.Context, r HoldRequest) (Hold, error) {
	return aHold, f.ask("hold", r)
}

func (f *fakeService) Unhold(_ context.Context, network, ip string) error {
	return f.ask("unhold", network, ip)
}

func (f *fakeService) Describe(_ context.Context, r DescribeRequest) (Endpoint, error) {
	return anEndpoint, f.ask("describe", r)
}

func (f *fakeService) Publish(_ context.Context, id string, ports []PortMapping) (Endpoint, error) {
	return anEndpoint, f.ask("publish", id, ports)
}

func (f *fakeService) SetRoutes(_ context.Context, id string, routes []string) (Endpoint, error) {
	return anEndpoint, f.ask("routes", id, routes)
}

func (f *fakeService) Attach(_ context.Context, r AttachRequest) (Endpoint, error) {
	return anEndpoint, f.ask("attach", r)
}
func (f *fakeService) Detach(_ context.Context, id string) error  { return f.ask("detach", id) }
func (f *fakeService) Release(_ context.Context, id string) error { return f.ask("release", id) }

// serve puts svc on a unix socket and gives a client of it.
func serve(t *testing.T, svc Service) (*Client, string) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: NewHandler(svc, slog.New(slog.DiscardHandler))}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close(); <-done })
	return NewClient(socket), socket
}

type exchange struct {
	name  string
	do    func(context.Context, Service) (any, error)
	asked []any
	want  any
}

func none(err error) (any, error) { return nil, err }

func calls() []exchange {
	create := CreateNetworkRequest{ID: "foo", Subnet: "10.6.0.0/16", Gateway: "10.6.0.9", Dynamic: "10.6.128.0/17", AllowMetadata: true, DryRun: true}
	describe := DescribeRequest{ID: "c1", ContainerID: "c", ContainerName: "web"}
	hold := HoldRequest{Network: "foo", IP: "10.6.0.2"}
	reserve := ReserveRequest{
		ID: "c1", ContainerID: "c", ContainerName: "web", Network: "foo", IP: "10.6.0.2", MAC: "02:00:00:00:00:01", Ports: somePorts, Source: SourceDocker,
		AllowAddresses: []string{"10.6.0.200"}, Forwarding: true,
	}
	attach := AttachRequest{
		ID: "c1", ContainerID: "c", ContainerName: "web", Network: "foo", IP: "10.6.0.2", MAC: "02:00:00:00:00:01", Ports: somePorts,
		Source: SourceConnect, NetNS: "/proc/1/ns/net", IfName: "eth1", HandOver: true,
		AllowAddresses: []string{"10.6.0.192/28"}, Forwarding: true,
	}
	return []exchange{
		{"Status", func(ctx context.Context, s Service) (any, error) { return s.Status(ctx) }, []any{"status"}, aStatus},
		{"CreateNetwork", func(ctx context.Context, s Service) (any, error) { return s.CreateNetwork(ctx, create) }, []any{"create", create}, aNetwork},
		{"Networks", func(ctx context.Context, s Service) (any, error) { return s.Networks(ctx) }, []any{"networks"}, []Network{aNetwork}},
		{"Network", func(ctx context.Context, s Service) (any, error) { return s.Network(ctx, "foo") }, []any{"network", "foo"}, aNetwork},
		{"DeleteNetwork", func(ctx context.Context, s Service) (any, error) { return none(s.DeleteNetwork(ctx, "a.b")) }, []any{"delete", "a.b"}, nil},
		{"Endpoints", func(ctx context.Context, s Service) (any, error) { return s.Endpoints(ctx) }, []any{"endpoints"}, []Endpoint{anEndpoint}},
		{"AllEndpoints", func(ctx context.Context, s Service) (any, error) { return s.AllEndpoints(ctx) }, []any{"all endpoints"}, []Endpoint{anEndpoint, anEndpoint}},
		{"Endpoint", func(ctx context.Context, s Service) (any, error) { return s.Endpoint(ctx, "web") }, []any{"endpoint", "web"}, anEndpoint},
		{"Drops", func(ctx context.Context, s Service) (any, error) { return s.Drops(ctx) }, []any{"drops"}, someDrops},
		{"Hold", func(ctx context.Context, s Service) (any, error) { return s.Hold(ctx, hold) }, []any{"hold", hold}, aHold},
		{"Unhold", func(ctx context.Context, s Service) (any, error) { return none(s.Unhold(ctx, "foo", "10.6.0.2")) }, []any{"unhold", "foo", "10.6.0.2"}, nil},
		{"Describe", func(ctx context.Context, s Service) (any, error) { return s.Describe(ctx, describe) }, []any{"describe", describe}, anEndpoint},
		{"Publish", func(ctx context.Context, s Service) (any, error) { return s.Publish(ctx, "c1", somePorts) }, []any{"publish", "c1", somePorts}, anEndpoint},
		{"SetRoutes", func(ctx context.Context, s Service) (any, error) {
			return s.SetRoutes(ctx, "c1", []string{"10.99.0.0/16"})
		}, []any{"routes", "c1", []string{"10.99.0.0/16"}}, anEndpoint},
		{"Reserve", func(ctx context.Context, s Service) (any, error) { return s.Reserve(ctx, reserve) }, []any{"reserve", reserve}, anEndpoint},
		{"Attach", func(ctx context.Context, s Service) (any, error) { return s.Attach(ctx, attach) }, []any{"attach", attach}, anEndpoint},
		{"Detach", func(ctx context.Context, s Service) (any, error) { return none(s.Detach(ctx, "c1")) }, []any{"detach", "c1"}, nil},
		{"Release", func(ctx context.Context, s Service) (any, error) { return none(s.Release(ctx, "c1")) }, []any{"release", "c1"}, nil},
	}
}

func TestRoundTrip(t *testing.T) {
	fake := &fakeService{}
	client, _ := serve(t, fake)
	// Twice over the wire: a client is a Service, too.
	proxy, _ := serve(t, client)
	for _, svc := range []Service{client, proxy} {
		for _, c := range calls() {
			fake.asked, fake.err = nil, nil
			got, err := c.do(t.Context(), svc)
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
			opt := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
			opt2 := cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })
			if diff := cmp.Diff(c.want, got, opt, opt2); diff != "" {
				t.Errorf("%s answered (-want +got):\n%s", c.name, diff)
			}
			if diff := cmp.Diff(c.asked, fake.asked, opt); diff != "" {
				t.Errorf("%s asked (-want +got):\n%s", c.name, diff)
			}
		}
	}
}

func TestErrorsTravel(t *testing.T) {
	fake := &fakeService{}
	client, _ := serve(t, fake)
	proxy, _ := serve(t, client)
	for _, code := range []Code{CodeInvalid, CodeNotFound, CodeConflict, CodeInUse, CodeExhausted, CodeUnavailable, CodeInternal, "from_tomorrow"} {
		for _, c := range calls() {
			fake.err = &Error{Code: code, Message: "sentence", Cause: errors.New("why")}
			for _, svc := range []Service{client, proxy} {
				_, err := c.do(t.Context(), svc)
				if CodeOf(err) != code || err.Error() != "sentence" || errors.Unwrap(err).Error() != "why" {
					t.Errorf("%s %s: %v, %v", c.name, code, err, errors.Unwrap(err))
				}
			}
		}
	}
	fake.err = fmt.Errorf("several\nlines: %w", errors.New("plain"))
	_, err := client.Status(t.Context())
	if CodeOf(err) != CodeInternal || err.Error() != "several; lines: plain" {
		t.Errorf("got %q", err)
	}
}

func TestUnreachable(t *testing.T) {
	client := NewClient(filepath.Join(t.TempDir(), "none"))
	for _, c := range calls() {
		if _, err := c.do(t.Context(), client); !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "socketplane agent start") {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := client.Status(gone); !errors.Is(err, context.Canceled) || errors.Is(err, ErrUnreachable) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestNoAgentAnswers: what is behind the socket may be anything.
func TestNoAgentAnswers(t *testing.T) {
	for name, answer := range map[string]struct {
		status int
		body   string
	}{
		"no JSON": {200, "hello"}, "wrong type": {200, `{"version":1}`}, "error page": {502, "<html>"}, "empty error": {500, `{}`}, "no error": {500, `{"error":"x"}`},
	} {
		socket := filepath.Join(t.TempDir(), "s")
		l, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(answer.status)
			_, _ = io.WriteString(w, answer.body)
		})}
		go server.Serve(l) //nolint:errcheck // it ends by Close
		if _, err := NewClient(socket).Status(t.Context()); err == nil || CodeOf(err) != CodeInternal {
			t.Errorf("%s: %v", name, err)
		}
		_ = server.Close()
	}
}
