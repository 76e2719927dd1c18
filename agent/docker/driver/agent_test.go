package driver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/socketplane/socketplane/agent/api"
)

// agent answers as an agent with one network would; a call that a test does not
// expect fails loudly.
type agent struct {
	api.Service
	endpoints []api.Endpoint
	busy      map[uint16]bool // host ports that are taken
	block     bool            // never answer
	stall     time.Duration   // how long a call takes, whatever its context says
	taken     string          // an address that cannot be held
	elsewhere bool            // other hosts have endpoints on every network

	mu       sync.Mutex // of what calls change
	networks []api.Network
	asked    []string
	spec     api.DockerSpec // with what Docker's user made each network
	kept     []netip.Prefix // reserved subnets, as last told
}

func (a *agent) ask(format string, args ...any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked = append(a.asked, fmt.Sprintf(format, args...))
}

func (a *agent) wasAsked() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.asked)
}

func (a *agent) Networks(ctx context.Context) ([]api.Network, error) {
	if a.block {
		<-ctx.Done()
		return nil, api.Errorf(api.CodeUnavailable, "too late")
	}
	time.Sleep(a.stall)
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.networks), nil
}

func (a *agent) Network(_ context.Context, id string) (api.Network, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, n := range a.networks {
		if n.ID == id {
			return n, nil
		}
	}
	return api.Network{}, api.Errorf(api.CodeNotFound, "network %q does not exist", id)
}

func (a *agent) CreateNetwork(_ context.Context, req api.CreateNetworkRequest) (api.Network, error) {
	a.ask("create %s %s %s %v", req.ID, req.Subnet, req.Gateway, req.DryRun)
	if err := api.CheckNetworkName(req.ID); err != nil {
		return api.Network{}, err
	}
	if req.Subnet == "" {
		req.Subnet = "10.9.0.0/24"
	}
	n := api.Network{ID: req.ID, Subnet: netip.MustParsePrefix(req.Subnet), ByDocker: req.ByDocker}
	if strings.HasPrefix(req.Subnet, "10.66.") {
		return n, api.Errorf(api.CodeConflict, "network %q: subnet %s overlaps", req.ID, req.Subnet)
	}
	if !req.DryRun {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.networks = append(a.networks, n)
	}
	return n, nil
}

func (a *agent) UsedElsewhere(_ context.Context, id string) error {
	if a.elsewhere {
		return api.Errorf(api.CodeInUse, "network %q is in use on h2", id)
	}
	return nil
}

func (a *agent) DeleteDockersNetwork(ctx context.Context, id string, subnet netip.Prefix) error {
	if err := a.UsedElsewhere(ctx, id); err != nil {
		return err
	}
	if n, err := a.Network(ctx, id); err != nil || !n.ByDocker || n.Subnet != subnet {
		return errors.Join(err, api.Errorf(api.CodeInUse, "network %q stays", id))
	}
	a.ask("delete %s", id)
	return nil
}

func (a *agent) ReserveSubnet(_ context.Context, subnet netip.Prefix) (netip.Prefix, error) {
	time.Sleep(a.stall)
	if subnet == (netip.Prefix{}) {
		a.ask("reserve any")
		return netip.MustParsePrefix("10.9.0.0/24"), nil
	}
	a.ask("reserve %s", subnet)
	if strings.HasPrefix(subnet.String(), "10.66.") {
		return subnet, api.Errorf(api.CodeConflict, "subnet %s overlaps", subnet)
	}
	return subnet, nil
}

func (a *agent) DockerSpec(context.Context, string, netip.Prefix) (api.DockerSpec, error) {
	return a.spec, nil
}

func (a *agent) KeepSubnets(_ context.Context, subnets []netip.Prefix) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.kept = subnets
	return nil
}

func (a *agent) Hold(_ context.Context, req api.HoldRequest) (api.Hold, error) {
	time.Sleep(a.stall)
	if req.Range != "" {
		a.ask("hold %s within %s", req.Network, req.Range)
	} else if req.From != "" {
		a.ask("hold %s %s from %s", req.Network, req.IP, req.From)
	} else {
		a.ask("hold %s %s", req.Network, req.IP)
	}
	if req.Network != "foo" && req.Network != "web" {
		return api.Hold{}, api.Errorf(api.CodeNotFound, "no network %q", req.Network)
	}
	if req.IP != "" && req.IP == a.taken {
		return api.Hold{}, api.Errorf(api.CodeConflict, "address %s is taken", req.IP)
	}
	ip := "10.6.0.2"
	if req.IP != "" {
		ip = req.IP
	}
	return api.Hold{Network: req.Network, IP: netip.MustParseAddr(ip), PrefixLen: 24}, nil
}

func (a *agent) Unhold(_ context.Context, network, ip string) error {
	a.ask("unhold %s %s", network, ip)
	return nil
}

func (a *agent) Reserve(_ context.Context, req api.ReserveRequest) (api.Endpoint, error) {
	time.Sleep(a.stall)
	a.ask("reserve %s %s %s %s %s", req.ID, req.Network, req.IP, req.MAC, req.Source)
	if len(req.AllowAddresses) > 0 {
		a.ask("allow %v forwarding %t", req.AllowAddresses, req.Forwarding)
	}
	mac := req.MAC
	if mac == "" {
		mac = "02:42:0a:06:00:02"
	}
	return api.Endpoint{ID: req.ID, MAC: mac}, api.CheckEndpointID(req.ID)
}

func (a *agent) Attach(_ context.Context, req api.AttachRequest) (api.Endpoint, error) {
	time.Sleep(a.stall)
	a.ask("attach %s %s %v", req.ID, req.NetNS, req.HandOver)
	return api.Endpoint{ID: req.ID, Peer: "spp1", Gateway: netip.MustParseAddr("10.6.0.1")}, nil
}

func (a *agent) Detach(ctx context.Context, id string) error {
	a.ask("detach %s", id)
	if a.stall > 0 { // what goes on with the endpoint is waited for
		<-ctx.Done()
		return api.Errorf(api.CodeUnavailable, "too late")
	}
	return api.CheckEndpointID(id)
}

func (a *agent) Release(_ context.Context, id string) error {
	a.ask("release %s", id)
	return nil
}

func (a *agent) Endpoints(context.Context) ([]api.Endpoint, error) { return a.endpoints, nil }

func (a *agent) Endpoint(_ context.Context, ref string) (api.Endpoint, error) {
	for _, e := range a.endpoints {
		if e.ID == ref {
			return e, nil
		}
	}
	return api.Endpoint{}, api.Errorf(api.CodeNotFound, "container %q has no endpoint", ref)
}

func (a *agent) Describe(_ context.Context, req api.DescribeRequest) (api.Endpoint, error) {
	a.ask("describe %s %s %s", req.ID, req.ContainerID, req.ContainerName)
	return api.Endpoint{}, nil
}

func (a *agent) Publish(_ context.Context, id string, ports []api.PortMapping) (api.Endpoint, error) {
	for _, p := range ports {
		if a.busy[p.HostPort] {
			return api.Endpoint{}, api.Errorf(api.CodeConflict, "port %d is taken", p.HostPort)
		}
	}
	a.ask("publish %s %v", id, ports)
	return api.Endpoint{}, nil
}

func newTestDriver(a *agent) *Driver {
	d := New(Config{Service: a, Logger: slog.New(slog.DiscardHandler)})
	d.known.setCompared()
	return d
}

// call is one call of dockerd's.
func call(t testing.TB, h http.Handler, method, body string) (int, map[string]any) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/"+method, strings.NewReader(body)))
	var answer map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil && w.Code != http.StatusNotFound {
		t.Fatalf("%s: %d %q: %v", method, w.Code, w.Body, err)
	}
	return w.Code, answer
}
