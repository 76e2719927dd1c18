package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/socketplane/socketplane/agent/agenttest"
	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/cluster"
	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/ipam"
)

const (
	selfID = "11111111-1111-4111-8111-111111111111"
	peerID = "22222222-2222-4222-8222-222222222222"
)

// testHost is a host with stand-ins for the switch and the kernel, and the real
// store, networks and addresses. Nothing runs in the background: the test says
// when the watches see something and when to converge.
type testHost struct {
	*Agent
	t        testing.TB
	calls    *agenttest.Calls
	store    *agenttest.Store
	sw       *agenttest.Switch
	links    *agenttest.Links
	nat      *agenttest.NAT
	firewall *agenttest.Firewall
	ports    *agenttest.HostPorts
	mtu      int // of the underlay

	routes, addrs []netip.Prefix // of the host
	allowed       Allowed
}

// newTestHost makes a host that has converged, in a cluster with one peer and
// the networks foo (10.6.0.0/16) and bar (10.7.0.0/29).
func newTestHost(t testing.TB) *testHost {
	t.Helper()
	real, err := state.OpenEmbedded(filepath.Join(storeDir(t), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = real.Close() })
	return newTestHostOn(t, real)
}

// newTestHostOn is newTestHost with another store.
func newTestHostOn(t testing.TB, real state.Store) *testHost {
	t.Helper()
	h := &testHost{t: t, calls: &agenttest.Calls{}, mtu: 1500}
	h.store = agenttest.NewStore(h.calls, real)
	h.sw, h.links, h.nat = agenttest.NewSwitch(h.calls), agenttest.NewLinks(h.calls), agenttest.NewNAT(h.calls)
	h.firewall = &agenttest.Firewall{}
	h.ports = agenttest.NewHostPorts(h.calls)
	h.put(cluster.HostsPrefix+peerID, fmt.Sprintf(
		`{"version":1,"id":%q,"name":"h2","vtep":"192.0.2.2","underlay_mtu":1500,"routes":null,"agent":"","datapath":"netdev"}`, peerID))
	h.start()
	for _, req := range []api.CreateNetworkRequest{{ID: "foo", Subnet: "10.6.0.0/16"}, {ID: "bar", Subnet: "10.7.0.0/29"}} {
		if _, err := h.CreateNetwork(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	h.converge()
	h.calls.Reset()
	return h
}

// storeDir is a directory in memory where that can be had: the store waits for the
// disk with each change, and a hundred calls at once wait for each other, as long as
// a call may last and longer.
func storeDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "socketplane-test")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// start makes the agent anew over what is there, as after a crash.
func (h *testHost) start() {
	h.t.Helper()
	a, err := New(Config{
		Self: func() (cluster.Host, error) {
			return cluster.Host{ID: selfID, Name: "h1", VTEP: netip.MustParseAddr("192.0.2.1"), MTU: h.mtu, Routes: h.routes, Addrs: h.addrs}, nil
		},
		Store: h.store, Catalog: network.New(network.Config{Store: h.store}), Addresses: ipam.New(h.store, selfID),
		Switch: h.sw, Links: h.links, NAT: h.nat, Firewall: h.firewall, HostPorts: h.ports, Allowed: h.allowed, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		h.t.Fatal(err)
	}
	h.Agent = a
	h.ports.Restart()
	a.linger, a.doubt, a.making, a.standby = 0, 0, 0, 0
	if err := a.adopt(h.t.Context()); err != nil {
		h.t.Fatal(err)
	}
	if a.isLoaded() {
		h.t.Fatal("loaded before it converged")
	}
}

// watch shows the agent the store as it is.
func (h *testHost) watch() {
	h.t.Helper()
	for _, part := range []string{partHosts, partNetworks, partEndpoints} {
		snap, err := h.store.Wait(h.t.Context(), part, 0)
		if err != nil {
			h.t.Fatal(err)
		}
		h.view.set(part, snap)
	}
}

// converge lets the watches see what is, and does one pass that must succeed.
func (h *testHost) converge() {
	h.t.Helper()
	h.watch()
	if err := h.Agent.converge(h.t.Context(), true); err != nil {
		h.t.Fatalf("converge: %v", err)
	}
}

// settle waits for what calls have left behind.
func (h *testHost) settle() { h.errands.wg.Wait() }

func (h *testHost) put(key, value string) {
	h.t.Helper()
	for { // again where the agent was in between
		e, err := h.store.Get(h.t.Context(), key)
		if err != nil && !errors.Is(err, state.ErrNotFound) {
			h.t.Fatal(err)
		}
		if _, err = h.store.CompareAndSet(h.t.Context(), key, []byte(value), e.Version); err == nil {
			return
		} else if !errors.Is(err, state.ErrConflict) {
			h.t.Fatal(err)
		}
	}
}

func (h *testHost) remove(prefix string) {
	h.t.Helper()
	if err := h.store.Txn(h.t.Context(), []state.Op{{Kind: state.OpDeleteTree, Key: prefix}}); err != nil {
		h.t.Fatal(err)
	}
}

// whole is everything that the agent can change, a line each.
func (h *testHost) whole() []string {
	h.t.Helper()
	lines := slices.Concat(h.sw.State(), h.links.State(), h.nat.State(), h.ports.State())
	entries, err := h.store.Store.List(context.Background(), state.Prefix)
	if err != nil {
		h.t.Fatal(err)
	}
	for _, e := range entries {
		if e.Key != network.GenerationKey {
			lines = append(lines, e.Key+" "+string(e.Value))
		}
	}
	for _, l := range h.table.all() {
		lines = append(lines, fmt.Sprintf("table %s %s %s attached %t releasing %t dirty %t", l.ID, l.Network, l.IP, l.Attached, l.Releasing, l.Dirty))
	}
	return lines
}

func (h *testHost) wantWhole(what string, want []string) {
	h.t.Helper()
	h.settle()
	if diff := cmp.Diff(want, h.whole()); diff != "" {
		h.t.Fatalf("%s (-want +got):\n%s", what, diff)
	}
}

func (h *testHost) mustAttach(id, network, ns string) api.Endpoint {
	h.t.Helper()
	e, err := h.Attach(h.t.Context(), api.AttachRequest{ID: id, Network: network, NetNS: ns, Source: api.SourceDocker})
	if err != nil {
		h.t.Fatalf("attach %s: %v", id, err)
	}
	return e
}

func wantCode(t *testing.T, err error, code api.Code, parts ...string) {
	t.Helper()
	if err == nil || api.CodeOf(err) != code {
		t.Fatalf("got error %v (%s), want code %s", err, api.CodeOf(err), code)
	}
	if strings.ContainsAny(err.Error(), "\n\r") {
		t.Errorf("message of several lines: %q", err)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("message %q lacks %q", err, part)
		}
	}
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("never came: %s", what)
		}
	}
}

func sameAddr(a, b netip.Addr) bool { return a == b }
