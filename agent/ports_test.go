package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/link"
	"github.com/socketplane/socketplane/agent/nat"
	"github.com/socketplane/socketplane/ovs"
)

var (
	port80   = api.PortMapping{Proto: "tcp", HostPort: 8080, ContainerPort: 80}
	port53   = api.PortMapping{Proto: "udp", HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: 5353, ContainerPort: 53}
	portFree = api.PortMapping{Proto: "tcp", ContainerPort: 90}
)

func publishing(id, network, ns string, ports ...api.PortMapping) api.AttachRequest {
	return api.AttachRequest{ID: id, Network: network, NetNS: ns, Ports: ports, Source: api.SourceDocker}
}

// rulesOf are the lines of the packet filter that lead to an address.
func (h *testHost) rulesOf(ip string) []string {
	var lines []string
	for _, line := range h.nat.State() {
		if _, to, ok := strings.Cut(line, " to "); ok && strings.HasPrefix(to, ip+":") {
			lines = append(lines, line)
		}
	}
	return lines
}

func (h *testHost) wantRules(ip string, want ...string) {
	h.t.Helper()
	if diff := cmp.Diff(want, h.rulesOf(ip)); diff != "" {
		h.t.Errorf("rules to %s (-want +got):\n%s", ip, diff)
	}
}

func TestPublishedPorts(t *testing.T) {
	h := newTestHost(t)
	empty := h.whole()
	e, err := h.Attach(t.Context(), publishing("c1", "foo", "/ns/1", port80, port53, portFree))
	if err != nil {
		t.Fatal(err)
	}
	chosen := portFree
	chosen.HostPort = 40000
	if diff := cmp.Diff([]api.PortMapping{port80, port53, chosen}, e.Ports, cmp.Comparer(sameAddr)); diff != "" {
		t.Errorf("published (-want +got):\n%s", diff)
	}
	rules := []string{"nat 0.0.0.0:40000/tcp to 10.6.0.2:90", "nat 0.0.0.0:8080/tcp to 10.6.0.2:80", "nat 127.0.0.1:5353/udp to 10.6.0.2:53"}
	h.wantRules("10.6.0.2", rules...)
	want := []link.Stale{{UDP: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:5353")}, Keep: netip.MustParseAddr("10.6.0.2")}}
	if got := h.links.Forgotten(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("forgotten %v, want %v", got, want)
	}
	h.converge()
	attached := h.whole()
	// The same again, and a converge, change nothing.
	if again, err := h.Attach(t.Context(), publishing("c1", "foo", "/ns/1", port80, port53, portFree)); err != nil || again.Ports[2] != chosen {
		t.Errorf("%v, %v", again.Ports, err)
	}
	h.converge()
	h.wantWhole("again", attached)
	_, err = h.Attach(t.Context(), publishing("c1", "foo", "/ns/1", port80))
	wantCode(t, err, api.CodeConflict, `"c1" publishes other ports`)

	// Another life of the agent takes them over as they are.
	h.start()
	h.converge()
	h.wantWhole("the agent restarted", attached)

	// While it is stopped they are free, and one that was chosen is chosen anew.
	if err := h.Detach(t.Context(), "c1"); err != nil {
		t.Fatal(err)
	}
	if lines := h.ports.State(); len(lines) != 0 {
		t.Errorf("held after Detach has returned: %v", lines)
	}
	h.settle()
	h.wantRules("10.6.0.2")
	if got := h.links.Forgotten(); got[len(got)-1].Addr.String() != "10.6.0.2" {
		t.Errorf("forgotten: %v", got)
	}
	if e, err = h.Endpoint(t.Context(), "c1"); err != nil || e.Ports[2] != portFree {
		t.Errorf("stopped: %v, %v", e.Ports, err)
	}
	if e, err = h.Attach(t.Context(), publishing("c1", "", "/ns/2")); err != nil || e.Ports[2].HostPort == 0 {
		t.Errorf("started: %v, %v", e.Ports, err)
	}
	if err := h.Release(t.Context(), "c1"); err != nil {
		t.Fatal(err)
	}
	h.settle() // the gateway lingers
	h.converge()
	h.wantWhole("released", empty)
}

func TestPublishedPortsAreRefused(t *testing.T) {
	h := newTestHost(t)
	h.ports.Occupy(nat.Port{Proto: "tcp", HostPort: 22})
	if _, err := h.Attach(t.Context(), publishing("c1", "foo", "/ns/1", port80)); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Reserve(t.Context(), api.ReserveRequest{ID: "c2", ContainerName: "db", Network: "foo", Source: api.SourceDocker, Ports: []api.PortMapping{port80}}); err != nil {
		t.Fatal(err) // a container that is made need not be started
	}
	h.settle()
	before := h.whole()
	_, err := h.Attach(t.Context(), publishing("c2", "", "/ns/2"))
	wantCode(t, err, api.CodeConflict, "port 0.0.0.0:8080/tcp", `taken by "c1"`)
	_, err = h.Attach(t.Context(), publishing("c3", "foo", "/ns/3", port53, api.PortMapping{Proto: "tcp", HostPort: 22, ContainerPort: 22}))
	wantCode(t, err, api.CodeConflict, "port 0.0.0.0:22/tcp", "another program")
	for name, p := range map[string]api.PortMapping{
		"protocol": {Proto: "sctp", HostPort: 1, ContainerPort: 1}, "no port": {Proto: "tcp", HostPort: 1},
		"IPv6": {Proto: "tcp", HostIP: netip.IPv6Loopback(), ContainerPort: 1}, "multicast": {Proto: "udp", HostIP: netip.MustParseAddr("224.0.0.1"), ContainerPort: 1},
	} {
		_, err := h.Attach(t.Context(), publishing("c3", "foo", "/ns/3", p))
		if api.CodeOf(err) != api.CodeInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	h.wantWhole("refused", before)
}

// TestPublishedPortLost: a port that a program took while the agent was dead is
// told, and nothing of the endpoint changes.
func TestPublishedPortLost(t *testing.T) {
	h := newTestHost(t)
	if _, err := h.Attach(t.Context(), publishing("c1", "foo", "/ns/1", port80)); err != nil {
		t.Fatal(err)
	}
	rules := h.rulesOf("10.6.0.2")
	taken := nat.Port{Proto: "tcp", HostPort: 8080}
	h.ports.Restart()
	h.ports.Occupy(taken)
	h.start()
	h.converge()
	h.wantRules("10.6.0.2", rules...)
	problems := func() string {
		st, err := h.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(st.Problems, "; ")
	}
	if p := problems(); !strings.Contains(p, "port 0.0.0.0:8080/tcp of this host is taken by another program") {
		t.Errorf("problems: %q", p)
	}
	h.ports.Vacate(taken)
	h.converge()
	if p := problems(); p != "" {
		t.Errorf("problems: %q", p)
	}
	if len(h.ports.State()) != 1 {
		t.Error("the port is not held again")
	}
}

func TestPublish(t *testing.T) {
	h := newTestHost(t)
	empty := h.whole()
	e := h.mustAttach("c1", "foo", "/ns/1")
	h.ports.Occupy(nat.Port{Proto: "tcp", HostPort: 22})
	attached := h.whole()
	publish := func(ports ...api.PortMapping) (api.Endpoint, error) {
		e, err := h.Publish(t.Context(), "c1", ports)
		h.converge()
		return e, err
	}
	for range 2 {
		if _, err := publish(port80, port53); err != nil {
			t.Fatal(err)
		}
		h.wantRules(e.IP.String(), "nat 0.0.0.0:8080/tcp to 10.6.0.2:80", "nat 127.0.0.1:5353/udp to 10.6.0.2:53")
	}
	published := h.whole()
	_, err := publish(port80, api.PortMapping{Proto: "tcp", HostPort: 22, ContainerPort: 22})
	wantCode(t, err, api.CodeConflict, "another program")
	h.wantWhole("refused", published)
	if e, err := publish(port80, portFree); err != nil || e.Ports[1].HostPort == 0 {
		t.Errorf("%v, %v", e.Ports, err)
	}
	h.start() // the ports are with the port of the bridge
	h.converge()
	if got := h.rulesOf(e.IP.String()); len(got) != 2 {
		t.Errorf("after a restart: %v", got)
	}
	if _, err := publish(); err != nil {
		t.Fatal(err)
	}
	h.wantWhole("taken back", attached)
	h.ports.Vacate(nat.Port{Proto: "tcp", HostPort: 22})
	_, err = h.Publish(t.Context(), "c9", nil)
	wantCode(t, err, api.CodeNotFound, "c9")
	if err := h.Release(t.Context(), "c1"); err != nil {
		t.Fatal(err)
	}
	h.settle() // the gateway lingers
	h.wantWhole("released", empty)
	// Docker takes the ports back before the endpoint: what was led to it over TCP
	// ends with it all the same.
	if all := h.links.Forgotten(); len(all) == 0 || all[len(all)-1].Addr != e.IP {
		t.Errorf("forgotten %v, and not all of %s at last", all, e.IP)
	}
}

// TestPublishedAndKilled: what Publish has said is published outlives an agent
// that is killed in the next instant, and what it took back does not come again.
func TestPublishedAndKilled(t *testing.T) {
	h := newTestHost(t)
	h.mustAttach("c1", "foo", "/ns/1")
	for _, ports := range [][]api.PortMapping{{port80, port53}, nil} {
		if _, err := h.Publish(t.Context(), "c1", ports); err != nil {
			t.Fatal(err)
		}
		h.start()
		h.converge()
		if got := h.rulesOf("10.6.0.2"); len(got) != len(ports) {
			t.Errorf("published %v, after a restart: %v", ports, got)
		}
	}
}

// TestTakeBackBeforeLoaded: while the store has not told of this host, ports are
// taken back or not, but at once.
func TestTakeBackBeforeLoaded(t *testing.T) {
	h := newTestHost(t)
	h.mustAttach("c1", "foo", "/ns/1")
	h.start()
	h.store.SetAway(true)
	start := time.Now()
	_, err := h.Publish(t.Context(), "c1", nil)
	wantCode(t, err, api.CodeUnavailable, "not known yet")
	if took := time.Since(start); took > loadTimeout/4 {
		t.Errorf("it took %s", took)
	}
}

// TestPublishedPortsFailing lets every call of an attach with ports fail once:
// nothing is left of it.
func TestPublishedPortsFailing(t *testing.T) {
	for _, applied := range []bool{false, true} {
		for n := 1; ; n++ {
			h := newTestHost(t)
			empty := h.whole()
			h.calls.FailAt(n, applied)
			_, err := h.Attach(t.Context(), publishing("c1", "foo", "/ns/1", port80, port53, portFree))
			h.settle()
			reached := len(h.calls.Names()) >= n
			h.calls.Reset()
			if !reached {
				break
			}
			if err == nil { // a failure that does no harm
				if err := h.Release(t.Context(), "c1"); err != nil {
					t.Fatal(err)
				}
				h.settle()
			}
			h.converge()
			h.converge()
			h.wantWhole(fmt.Sprintf("call %d failed, applied %v: %v", n, applied, err), empty)
		}
	}
}

func TestKernelWithoutConntrackNetlink(t *testing.T) {
	h := newTestHost(t)
	h.calls.Fail("Links.ForgetConnections", fmt.Errorf("lacks: %w", errors.ErrUnsupported))
	if _, err := h.Attach(t.Context(), publishing("c1", "foo", "/ns/1", port53)); err != nil {
		t.Fatal(err)
	}
	if err := h.Release(context.Background(), "c1"); err != nil {
		t.Fatal(err)
	}
}

func TestPortsInExternalIDs(t *testing.T) {
	h := newTestHost(t)
	if _, err := h.Attach(t.Context(), publishing("c1", "foo", "/ns/1", port80, portFree)); err != nil {
		t.Fatal(err)
	}
	ports, err := h.Switch.Ports(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(ports, func(p ovs.Port) bool { return p.IDs[idEndpoint] == "c1" })
	good := ports[i]
	l, err := localOf(good)
	if err != nil || len(l.Ports) != 2 || !slices.Equal(l.HostPorts, []uint16{8080, 40000}) {
		t.Fatalf("%+v, %v", l, err)
	}
	for key, values := range map[string][]string{
		idPorts:     {"x", "{}", `[{"proto":"icmp","container_port":1}]`, `[{"proto":"tcp","container_port":70000}]`, `[{"proto":"tcp","container_port":1,"x":1}]`, `[]x`, "[" + strings.Repeat(`{"proto":"tcp","container_port":1},`, 300) + `{"proto":"tcp","container_port":1}]`},
		idHostPorts: {"x", "[1]", "[1,2,3]", "[0,1]", "[-1,1]", "[70000,1]", `["1","2"]`},
		idTurn:      {"", "x", "0", "-1", "01", "1 ", "99999999999999999999", "2147483647"},
	} {
		for _, value := range values {
			bad := good
			bad.IDs = map[string]string{}
			for k, v := range good.IDs {
				bad.IDs[k] = v
			}
			bad.IDs[key] = value
			if _, err := localOf(bad); err == nil {
				t.Errorf("%s=%.60s was taken", key, value)
			}
		}
	}
}
