package agent

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/cluster"
	"github.com/socketplane/socketplane/agent/jsonobject"
	"github.com/socketplane/socketplane/agent/network"
	"github.com/socketplane/socketplane/agent/state"
	"github.com/socketplane/socketplane/ipam"
)

// TestListOfALaterRelease: a peer's endpoints count whatever members its release has
// added to the list, to an endpoint, or to a published port.
func TestListOfALaterRelease(t *testing.T) {
	h := newTestHost(t)
	h.mustAttach("c1", "foo", "/ns/1")
	h.put(network.EndpointsKey("foo", peerID), `{"version":1,"later":{},"endpoints":[{"health":"ok","id":"r1","ip":"10.6.0.80","mac":"02:42:0a:06:00:50",`+
		`"ifname":"eth0","ports":[{"proto":"tcp","host_port":80,"container_port":80,"balance":"random"}],"source":"docker","attached":true}]}`)
	h.converge()
	h.settle()
	h.well()
	if l := h.view.remotes("foo")[peerID]; len(l) != 1 || len(l[0].Ports) != 1 || l[0].Ports[0].HostPort != 80 {
		t.Errorf("%+v", l)
	}
}

// TestOwnListAfterADowngrade: this host's list was written by a later release of the
// agent. This one takes its endpoints up, changes the list, and loses no member that it
// does not know: neither of the list nor of the endpoints that are still there.
func TestOwnListAfterADowngrade(t *testing.T) {
	h := newTestHost(t)
	for i, id := range []string{"c1", "c2"} {
		h.mustAttach(id, "foo", fmt.Sprintf("/ns/%d", i))
	}
	h.converge()
	key := network.EndpointsKey("foo", selfID)
	e, err := h.store.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	value := strings.Replace(string(e.Value), `{`, `{"later":{"a":[1.50]},`, 1)
	value = strings.Replace(value, `"id":"c1",`, `"id":"c1","health":{"since":7.50},`, 1)
	value = strings.Replace(value, `"id":"c2",`, `"health":{"since":8.50},"id":"c2",`, 1)
	h.put(key, value)
	h.start()
	h.converge()
	h.mustAttach("c3", "foo", "/ns/3")
	h.converge()
	has := func(what string, parts ...string) {
		t.Helper()
		h.settle()
		e, err := h.store.Get(t.Context(), key)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		for _, part := range append(parts, `"later":{"a":[1.50]}`) {
			if !strings.Contains(string(e.Value), part) {
				t.Errorf("%s: the list lacks %s: %s", what, part, e.Value)
			}
		}
	}
	has("a third came", `"since":7.50`, `"since":8.50`, `"id":"c3"`)
	if err := h.Release(t.Context(), "c1"); err != nil {
		t.Fatal(err)
	}
	h.converge()
	has("one went", `"since":8.50`)
	if e, _ := h.store.Get(t.Context(), key); strings.Contains(string(e.Value), "7.50") {
		t.Errorf("what was of an endpoint outlives it: %s", e.Value)
	}
	h.well()
	if st, err := h.Status(t.Context()); err != nil || len(st.Overwritten) != 0 {
		t.Errorf("%+v, %v", st.Overwritten, err)
	}
}

// TestIncompatibleList: a list of a layout that this release does not know is left
// alone, and status says why.
func TestIncompatibleList(t *testing.T) {
	h := newTestHost(t)
	h.put(network.EndpointsKey("foo", peerID), `{"version":2,"endpoints":{}}`)
	h.converge()
	h.named(network.EndpointsKey("foo", peerID), "layout 2", "newer release")
	if all := h.problems(); strings.Contains(all, "delete") {
		t.Errorf("status says to delete what a newer release needs: %s", all)
	}
}

// TestOwnListAfterReclaim: a host that was away reclaims its addresses. What it then finds
// in its list, which it has written itself in this life, is no later release's. It puts
// back what its endpoints are, and goes on publishing.
func TestOwnListAfterReclaim(t *testing.T) {
	h := newTestHost(t)
	h.mustAttach("c1", "foo", "/ns/1")
	h.converge()
	h.settle()
	key := network.EndpointsKey("foo", selfID)
	good, err := h.store.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	for _, value := range []string{
		`{"version":2,"endpoints":{}}`,
		strings.Replace(string(good.Value), `{`, `{"later":{"a":[1.50]},`, 1),
	} {
		h.put(key, value)
		h.reclaim.Store(true)
		h.watch()
		if err := h.Agent.converge(t.Context(), true); err != nil {
			t.Errorf("converge over %s: %v", value, err)
		}
		h.settle()
		if e, err := h.store.Get(t.Context(), key); err != nil || string(e.Value) != string(good.Value) {
			t.Errorf("the list is %s, %v, want %s", e.Value, err, good.Value)
		}
	}
	h.mustAttach("c2", "foo", "/ns/2")
	h.settle()
	if e, err := h.store.Get(t.Context(), key); err != nil || !strings.Contains(string(e.Value), `"c2"`) || strings.Contains(string(e.Value), "later") {
		t.Errorf("the list is %s, %v", e.Value, err)
	}
}

// TestReapersKeyOfALaterRelease: who reaps keeps what a later release has written
// beside the lock, and does nothing under a lock that it does not know.
func TestReapersKeyOfALaterRelease(t *testing.T) {
	for value, want := range map[string]string{
		`{"later":[1.50],"version":1,"host":"x","name":"y"}`: `"later":[1.50]`,
		``:                `"host"`,
		`garbage`:         `"host"`, // nobody's
		`{"version":2}`:   "",
		`{"version":"2"}`: `"host"`,
	} {
		e := state.Entry{Key: reaperKey, Value: []byte(value), Version: 7}
		got, err := encodeReaper(e, selfID, "h1")
		if want == "" && err == nil || want != "" && (err != nil || !strings.Contains(string(got), want) || !strings.Contains(string(got), selfID)) {
			t.Errorf("%s became %s, %v", value, got, err)
		}
	}
}

// TestPortsOfALaterRelease: what a port on the bridge publishes is read whatever a later
// release has added to it: the endpoint is not dropped by a downgrade.
func TestPortsOfALaterRelease(t *testing.T) {
	h := newTestHost(t)
	h.mustAttach("c1", "foo", "/ns/1")
	ports, err := h.sw.Ports(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range ports {
		if p.IDs[idEndpoint] != "c1" {
			continue
		}
		p.IDs[idPorts] = `[{"proto":"tcp","host_port":80,"container_port":80,"balance":"random"}]`
		if l, err := localOf(p); err != nil || len(l.Ports) != 1 || l.Ports[0].ContainerPort != 80 {
			t.Errorf("%+v, %v", l, err)
		}
		return
	}
	t.Error("no port")
}

// TestAllKnow: a feature of a later release is used only while every living host knows
// it: one that has just come back to an older release ends that, and one whose record
// cannot be read may be of any release.
func TestAllKnow(t *testing.T) {
	h := newTestHost(t)
	key := cluster.HostsPrefix + peerID
	const behind, unread = "upgrade it on: h2", "not all hosts' records can be read"
	is := func(what, want string) {
		t.Helper()
		err := h.allKnow(cluster.UnknownFields, "tests")
		if want == "" {
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
		} else if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", what, err, want)
		}
	}
	known := h.view
	h.view = newView(selfID)
	is("before the hosts were read", unread)
	h.view = known
	for _, step := range []struct {
		what string
		do   func()
		want string
	}{
		{"the first release", func() {}, behind},
		{"upgraded", func() { h.put(key, peerRecord("v1 "+cluster.UnknownFields)) }, ""},
		{"downgraded", func() { h.put(key, peerRecord("e58e9f7")) }, behind},
		{"gone", func() { h.view.setGone(map[string]time.Time{peerID: time.Now()}) }, ""},
		{"back, and upgraded", func() { h.view.setGone(nil); h.put(key, peerRecord("v1 "+cluster.UnknownFields)) }, ""},
		{"another's record cannot be read", func() { h.put(cluster.HostsPrefix+"x", `{"version":2}`) }, unread},
		{"it was deleted", func() { h.remove(cluster.HostsPrefix + "x") }, ""},
		{"this host's own record is of an older release", func() {
			h.put(cluster.HostsPrefix+selfID, strings.NewReplacer(peerID, selfID, "h2", "h1", "192.0.2.2", "192.0.2.1").Replace(peerRecord("e58e9f7")))
		}, ""},
	} {
		step.do()
		h.watch()
		is(step.what, step.want)
	}
}

// peerRecord is the record of the peer with a value of the member "agent".
func peerRecord(agent string) string {
	return fmt.Sprintf(`{"version":1,"id":%q,"name":"h2","vtep":"192.0.2.2","underlay_mtu":1500,"routes":null,"agent":%q,"datapath":"netdev"}`, peerID, agent)
}

// TestAllKnowAtOneMoment: the names and whether all records could be read are of one
// moment. Here a feature may not be used before a change of the records, nor after it,
// for different reasons.
func TestAllKnowAtOneMoment(t *testing.T) {
	h := newTestHost(t)
	entry := func(id, value string) state.Entry {
		return state.Entry{Key: cluster.HostsPrefix + id, Version: 1, Value: []byte(value)}
	}
	unread := state.Snapshot{Entries: []state.Entry{entry(peerID, peerRecord("v1 "+cluster.UnknownFields)), entry("x", `{"version":2}`)}}
	behind := state.Snapshot{Entries: []state.Entry{entry(peerID, peerRecord("e58e9f7"))}}
	h.view.set(partHosts, unread)
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			default:
				h.view.set(partHosts, behind)
				h.view.set(partHosts, unread)
			}
		}
	}()
	defer func() { close(stop); <-ended }()
	for range 20000 {
		if err := h.allKnow(cluster.UnknownFields, "tests"); err == nil {
			t.Fatal("allowed between two states that both forbid it")
		}
	}
}

// firstRelease is what the first release knows in the values of the store, by the
// beginning of their keys: it refuses a value with any other member, and drops the
// host, network or endpoints in it.
var firstRelease = map[string]string{
	network.NetworksPrefix:     "version id subnet gateway vlan vni deleting allow_metadata by_docker",
	network.VLANsPrefix:        "version network",
	network.GenerationKey:      "version generation",
	network.EndpointsPrefix:    "version endpoints",
	network.DockersPrefix:      "version subnet options labels",
	network.ReservationsPrefix: "version subnet host life asked",
	ipam.BlocksPrefix:          "version host owners",
	cluster.HostsPrefix:        "version id name vtep underlay_mtu routes agent datapath node boot",
}

const firstEndpoint = "id container_id container_name ip mac ifname ports host_ports source attached"

// TestFirstReleaseReadsWhatIsWritten: as long as hosts of the first release live, nothing
// is in the store that they refuse. A new member must depend on Agent.allKnow.
func TestFirstReleaseReadsWhatIsWritten(t *testing.T) {
	h := newTestHost(t)
	e, err := h.Attach(t.Context(), api.AttachRequest{
		ID: "c1", ContainerID: "c", ContainerName: "web", Network: "foo", NetNS: "/ns/1", Source: api.SourceDocker,
		Ports: []api.PortMapping{{Proto: "tcp", HostIP: netip.MustParseAddr("192.0.2.1"), ContainerPort: 80}},
	})
	if err != nil || len(e.Ports) != 1 {
		t.Fatalf("%+v, %v", e, err)
	}
	manager := network.New(network.Config{Store: h.store, Host: selfID})
	if _, _, err := manager.Create(t.Context(), network.Spec{
		Name: "dockers", Subnet: netip.MustParsePrefix("10.9.0.0/16"), AllowMetadata: true, ByDocker: true,
		Docker: &api.DockerSpec{Options: map[string]string{"a": "b"}, Labels: map[string]string{"c": "d"}},
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := manager.Reserve(t.Context(), netip.MustParsePrefix("10.10.0.0/16")); err != nil {
		t.Fatal(err)
	}
	h.converge()
	entries, err := h.store.List(t.Context(), state.Prefix)
	if err != nil {
		t.Fatal(err)
	}
	members := func(what string, value []byte, known string) *jsonobject.Object {
		t.Helper()
		o, err := jsonobject.Parse(value)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		for _, m := range o.Keys() {
			if !slices.Contains(strings.Fields(known), m) {
				t.Errorf("%s: the first release refuses member %q", what, m)
			}
		}
		return o
	}
	seen := map[string]bool{}
	for _, e := range entries {
		for prefix, known := range firstRelease {
			if !strings.HasPrefix(e.Key, prefix) {
				continue
			}
			seen[prefix] = true
			o := members(e.Key, e.Value, known)
			var list []json.RawMessage
			if raw := o.Get("endpoints"); raw != nil {
				if err := json.Unmarshal(raw, &list); err != nil {
					t.Fatal(err)
				}
			}
			for _, one := range list {
				ep := members(e.Key, one, firstEndpoint)
				var ports []json.RawMessage
				if err := json.Unmarshal(ep.Get("ports"), &ports); err != nil || len(ports) != 1 {
					t.Fatalf("%s, %v", one, err)
				}
				members(e.Key, ports[0], "proto host_ip host_port container_port")
			}
		}
	}
	for prefix := range firstRelease {
		if !seen[prefix] {
			t.Errorf("nothing was written below %s: the test proves less than it says", prefix)
		}
	}
}
