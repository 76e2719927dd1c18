package driver

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/docker"
)

// modelAddresses is the agent as far as the addresses of one network, web, go.
type modelAddresses struct {
	api.Service
	*stage

	mu        sync.Mutex
	owners    map[netip.Addr]string // endpoints, and holds, which begin with +
	endpoints map[string]api.Endpoint
	old       map[string]bool // endpoints of an earlier life: who asks by name may take what they have, once they are detached
	holds     int
}

func (m *modelAddresses) Networks(context.Context) ([]api.Network, error) {
	return []api.Network{aNetwork("web", "10.6.0.0/24")}, nil
}

func (m *modelAddresses) Network(context.Context, string) (api.Network, error) {
	return aNetwork("web", "10.6.0.0/24"), nil
}

func (m *modelAddresses) Hold(_ context.Context, req api.HoldRequest) (api.Hold, error) {
	m.stop("hold " + req.IP)
	defer m.stop("held " + req.IP)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.holds++
	hold := fmt.Sprint("+", m.holds)
	ip, err := netip.ParseAddr(req.IP)
	if err != nil {
		ip = netip.MustParseAddr("10.6.0.2")
		for m.owners[ip] != "" {
			ip = ip.Next()
		}
	}
	owner := m.owners[ip]
	if e := m.endpoints[owner]; owner != "" && (owner != req.From && !m.old[owner] || e.Attached) {
		return api.Hold{}, api.Errorf(api.CodeConflict, "%s is taken by %q", ip, owner)
	}
	delete(m.endpoints, owner)
	m.owners[ip] = hold
	return api.Hold{Network: "web", IP: ip, PrefixLen: 24}, nil
}

func (m *modelAddresses) Unhold(_ context.Context, _, ip string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if addr := netip.MustParseAddr(ip); strings.HasPrefix(m.owners[addr], "+") {
		delete(m.owners, addr)
	}
	return nil
}

func (m *modelAddresses) Reserve(_ context.Context, req api.ReserveRequest) (api.Endpoint, error) {
	m.stop("reserve " + req.ID)
	defer m.stop("reserved " + req.ID)
	m.mu.Lock()
	defer m.mu.Unlock()
	ip := netip.MustParseAddr(req.IP)
	if owner := m.owners[ip]; owner != "" && owner != req.ID && !strings.HasPrefix(owner, "+") {
		return api.Endpoint{}, api.Errorf(api.CodeConflict, "%s is taken by %q", ip, owner)
	}
	m.owners[ip] = req.ID
	e := api.Endpoint{ID: req.ID, ContainerID: req.ID, Source: req.Source, Network: "web", IP: ip, PrefixLen: 24, MAC: "02:42:0a:06:00:02"}
	m.endpoints[req.ID] = e
	return e, nil
}

func (m *modelAddresses) attached(id string, attached bool) (api.Endpoint, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.endpoints[id]
	if !ok {
		return e, api.Errorf(api.CodeNotFound, "endpoint %q is not there", id)
	}
	e.Attached = attached
	m.endpoints[id] = e
	return e, nil
}

func (m *modelAddresses) Attach(_ context.Context, req api.AttachRequest) (api.Endpoint, error) {
	m.stop("attach " + req.ID)
	defer m.stop("attached " + req.ID)
	return m.attached(req.ID, true)
}

func (m *modelAddresses) Detach(_ context.Context, id string) error {
	m.stop("detach " + id)
	_, err := m.attached(id, false)
	if api.CodeOf(err) == api.CodeNotFound {
		err = nil
	}
	return err
}

func (m *modelAddresses) Release(_ context.Context, id string) error {
	m.stop("release " + id)
	m.mu.Lock()
	defer m.mu.Unlock()
	if e, ok := m.endpoints[id]; ok {
		delete(m.owners, e.IP)
		delete(m.endpoints, id)
	}
	return nil
}

func (m *modelAddresses) Endpoints(context.Context) ([]api.Endpoint, error) {
	m.mu.Lock()
	list := slices.Collect(maps.Values(m.endpoints))
	m.mu.Unlock()
	slices.SortFunc(list, func(a, b api.Endpoint) int { return strings.Compare(a.ID, b.ID) })
	m.stop("endpoints are read")
	return list, nil
}

func (m *modelAddresses) Endpoint(_ context.Context, id string) (api.Endpoint, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e, ok := m.endpoints[id]; ok {
		return e, nil
	}
	return api.Endpoint{}, api.Errorf(api.CodeNotFound, "endpoint %q is not there", id)
}

func (m *modelAddresses) Describe(context.Context, api.DescribeRequest) (api.Endpoint, error) {
	return api.Endpoint{}, nil
}

// modelContainer is one of Docker's containers, on web.
type modelContainer struct {
	id, ip   string // ip: asked for by name; empty: dynamic
	state    string // created, running or exited
	endpoint string
	busy     bool
}

// containers are dockerd as far as containers on web go, in libnetwork's order, and the
// driver, with what its users were told.
type containers struct {
	checker
	*stage
	agent  *modelAddresses
	driver *Driver
	engine *docker.Engine

	mu        sync.Mutex
	made      int
	all       map[string]*modelContainer
	endpoints map[string]string // in Docker's network: endpoint -> container
	events    []docker.Event
	running   map[string]bool // what the driver does just now
}

func newContainers(t checker) *containers {
	s := &stage{}
	w := &containers{
		checker: t, stage: s, agent: &modelAddresses{stage: s, owners: map[netip.Addr]string{}, endpoints: map[string]api.Endpoint{}},
		all: map[string]*modelContainer{}, endpoints: map[string]string{}, running: map[string]bool{},
	}
	engine, err := docker.DialOver(w)
	if err != nil {
		t.Fatal(err)
	}
	w.engine = engine
	w.begins()
	return w
}

// begins begins another life of the driver.
func (w *containers) begins() {
	w.agent.mu.Lock()
	w.agent.old = map[string]bool{}
	for id := range w.agent.endpoints {
		w.agent.old[id] = true
	}
	w.agent.mu.Unlock()
	d := newTestDriver(nil)
	d.Service = unused{w.agent}
	d.known.setPools(map[netip.Prefix]string{netip.MustParsePrefix("10.6.0.0/24"): "web"})
	w.mu.Lock()
	defer w.mu.Unlock()
	w.driver = d
}

func (w *containers) life() *Driver {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.driver
}

// unused is what the driver asks of the agent beside the api.
type unused struct{ *modelAddresses }

func (unused) DeleteDockersNetwork(context.Context, string, netip.Prefix) error { return nil }
func (unused) UsedElsewhere(context.Context, string) error                      { return nil }
func (unused) ReserveSubnet(_ context.Context, p netip.Prefix) (netip.Prefix, error) {
	return p, nil
}

func (unused) DockerSpec(context.Context, string, netip.Prefix) (api.DockerSpec, error) {
	return api.DockerSpec{}, nil
}
func (unused) KeepSubnets(context.Context, []netip.Prefix) error { return nil }

// RoundTrip answers the agent's calls of Docker's API.
func (w *containers) RoundTrip(r *http.Request) (*http.Response, error) {
	answer := httptest.NewRecorder()
	answer.Header().Set("Api-Version", "1.41")
	answer.Header().Set("Content-Type", "application/json")
	_, path, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	w.mu.Lock()
	var body any = map[string]any{}
	switch path {
	case "networks":
		body = []any{dockersNetwork("n1", "web", "10.6.0.0/24", nil)}
	case "networks/n1":
		list := map[string]any{}
		for endpoint, container := range w.endpoints {
			list[container] = map[string]string{"EndpointID": endpoint}
		}
		n := dockersNetwork("n1", "web", "10.6.0.0/24", nil)
		n["Containers"] = list
		body = n
	case "containers/json":
		var filters struct{ ID, Status map[string]bool }
		_ = json.Unmarshal([]byte(r.URL.Query().Get("filters")), &filters)
		list := []any{}
		for _, id := range slices.Sorted(maps.Keys(w.all)) {
			c := w.all[id]
			if c.ip != "" && (len(filters.ID) == 0 || filters.ID[id]) && (len(filters.Status) == 0 || filters.Status[c.state]) {
				list = append(list, asks(id, id, "web", c.ip, c.endpoint))
			}
		}
		body = list
	}
	_ = json.NewEncoder(answer).Encode(body)
	w.mu.Unlock()
	if path != "_ping" && !strings.HasSuffix(r.URL.Path, "/_ping") { // the client holds a mutex meanwhile
		w.stop("docker answers " + path)
	}
	return answer.Result(), nil
}

func (w *containers) call(method, format string, args ...any) (map[string]any, error) {
	answer := httptest.NewRecorder()
	w.life().Handler().ServeHTTP(answer, httptest.NewRequest(http.MethodPost, "/"+method, strings.NewReader(fmt.Sprintf(format, args...))))
	var said map[string]any
	if err := json.Unmarshal(answer.Body.Bytes(), &said); err != nil || answer.Code != http.StatusOK {
		return nil, fmt.Errorf("%s: %v %v", method, said["Err"], err)
	}
	return said, nil
}

// do has a user do something with a container that nobody else does something with.
func (w *containers) do(t *rapid.T, what string, do func(c *modelContainer), states ...string) {
	w.mu.Lock()
	var ids []string
	for id, c := range w.all {
		if !c.busy && slices.Contains(states, c.state) {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		w.mu.Unlock()
		t.Skip()
	}
	slices.Sort(ids)
	c := w.all[rapid.SampledFrom(ids).Draw(t, "container")]
	t.Logf("%s %s", what, c.id)
	c.busy = true
	w.mu.Unlock()
	w.run(func() {
		do(c)
		w.mu.Lock()
		defer w.mu.Unlock()
		c.busy = false
	})
}

func (w *containers) create(ip string) (id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.made++
	c := &modelContainer{id: fmt.Sprint("c", w.made), ip: ip, state: "created"}
	w.all[c.id] = c
	w.events = append(w.events, docker.Event{Kind: docker.ContainerMade, ID: c.id})
	return c.id
}

// start is docker start. It may fail only where another container has the address.
func (w *containers) start(c *modelContainer) {
	before := w.shared(c) // it may be removed meanwhile
	got, err := w.call("IpamDriver.RequestAddress", `{"PoolID":"10.6.0.0/24","Address":%q}`, c.ip)
	if err != nil {
		if !before && !w.shared(c) {
			w.Errorf("start %s with %q: %v", c.id, c.ip, err)
		}
		return
	}
	address := got["Address"].(string)
	bare, _, _ := strings.Cut(address, "/")
	w.mu.Lock()
	w.made++
	endpoint := fmt.Sprint("e", w.made)
	w.mu.Unlock()
	if _, err := w.call("NetworkDriver.CreateEndpoint", `{"NetworkID":"n1","EndpointID":%q,"Interface":{"Address":%q}}`, endpoint, address); err != nil {
		if !before && !w.shared(c) {
			w.Errorf("start %s with %q: %v", c.id, c.ip, err)
		}
		_, _ = w.call("IpamDriver.ReleaseAddress", `{"PoolID":"10.6.0.0/24","Address":%q}`, bare)
		return
	}
	w.stop("start " + c.id + ": docker has no endpoint yet")
	w.mu.Lock()
	w.endpoints[endpoint], c.endpoint = c.id, endpoint
	w.mu.Unlock()
	w.stop("start " + c.id + ": docker has the endpoint")
	if _, err := w.call("NetworkDriver.Join", `{"NetworkID":"n1","EndpointID":%q,"SandboxKey":"/x"}`, endpoint); err != nil {
		w.Errorf("join %s with %q: %v", c.id, bare, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	c.state = "running"
}

// shared says whether another container asks for the same address.
func (w *containers) shared(c *modelContainer) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, other := range w.all {
		if other != c && other.ip == c.ip {
			return true
		}
	}
	return false
}

func (w *containers) halt(c *modelContainer) {
	ip, _ := w.agent.Endpoint(context.Background(), c.endpoint)
	_, _ = w.call("NetworkDriver.Leave", `{"NetworkID":"n1","EndpointID":%q}`, c.endpoint)
	_, _ = w.call("NetworkDriver.DeleteEndpoint", `{"NetworkID":"n1","EndpointID":%q}`, c.endpoint)
	w.stop("stop " + c.id + ": its endpoint is deleted")
	w.mu.Lock()
	delete(w.endpoints, c.endpoint)
	c.endpoint = ""
	w.mu.Unlock()
	if ip.IP.IsValid() {
		_, _ = w.call("IpamDriver.ReleaseAddress", `{"PoolID":"10.6.0.0/24","Address":%q}`, ip.IP)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	c.state = "exited"
}

func (w *containers) remove(c *modelContainer) {
	w.mu.Lock()
	runs := c.state == "running"
	w.mu.Unlock()
	if runs {
		w.halt(c)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.all, c.id)
	w.events = append(w.events, docker.Event{Kind: docker.ContainerRemoved, ID: c.id})
}

// drive has the driver do something, one of a kind at a time.
func (w *containers) drive(what string) {
	d := w.life()
	w.mu.Lock()
	if w.running[what] {
		w.mu.Unlock()
		return
	}
	w.running[what] = true
	var events []docker.Event
	if what == "events" {
		events, w.events = w.events, nil
	}
	w.mu.Unlock()
	w.run(func() {
		switch what {
		case "events":
			for _, e := range events {
				_ = d.Event(context.Background(), w.engine, e)
			}
		case "sweep":
			_ = d.Sweep(context.Background(), w.engine)
		case "look":
			_ = d.lookAtCreated(context.Background(), w.engine)
		case "compare":
			_ = d.compareKept(context.Background(), w.engine)
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.running, what)
	})
}

// finish lets all that was begun end, and then the driver do what it would.
func (w *containers) finish(pick func(steps int) int) {
	for _, what := range []string{"", "events", "sweep", "look", "compare", "sweep"} {
		if what != "" {
			w.drive(what)
		}
		for n, all := len(w.steps()), 0; n > 0; n = len(w.steps()) {
			if all++; all > 1000 {
				w.Fatal("no end: ", w.steps())
			}
			w.advance(pick(n))
		}
	}
}

// check compares what is there with what containers ask for, once all is quiet.
func (w *containers) check() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.agent.mu.Lock()
	defer w.agent.mu.Unlock()
	kept := map[string]bool{}
	for id, c := range w.all {
		e, ok := w.agent.endpoints[c.endpoint]
		switch {
		case c.state == "running" && (!ok || !e.Attached || c.ip != "" && e.IP.String() != c.ip):
			w.Errorf("%s runs with %q, and has %+v", id, c.ip, e)
		case c.state != "running" && c.ip != "" && w.agent.owners[netip.MustParseAddr(c.ip)] == "":
			w.Errorf("%s is %s, and nobody keeps %s for it", id, c.state, c.ip)
		}
		kept[c.ip], kept[e.IP.String()] = true, true
	}
	for ip, owner := range w.agent.owners {
		if !kept[ip.String()] {
			w.Errorf("%s is %q's, and nobody asks for it", ip, owner)
		}
	}
}

// TestAddressModel: in whatever order containers are made, started, stopped and removed
// while the driver looks at Docker, each has the address that it asked for at its start,
// keeps its interface while it runs, and leaves nothing.
func TestAddressModel(t *testing.T) {
	for name, value := range map[string]string{"checks": "200", "seed": "1", "steps": "60", "shrinktime": "30s", "nofailfile": "true"} {
		setRapid(t, name, value)
	}
	synctest.Test(t, func(t *testing.T) {
		rapid.Check(bubbled{t}, func(rt *rapid.T) {
			w := newContainers(rt)
			defer w.release()
			step := func(t *rapid.T) {
				if len(w.steps()) == 0 {
					t.Skip()
				}
				for range rapid.IntRange(1, 6).Draw(t, "how many") {
					if steps := w.steps(); len(steps) > 0 {
						i := rapid.IntRange(0, len(steps)-1).Draw(t, "which")
						t.Log(steps[i])
						w.advance(i)
					}
				}
			}
			actions := map[string]func(*rapid.T){
				"create": func(t *rapid.T) {
					t.Log("created", w.create(rapid.SampledFrom([]string{"", "10.6.0.100", "10.6.0.101", "10.6.0.102"}).Draw(t, "ip")))
				},
				"start":  func(t *rapid.T) { w.do(t, "start", w.start, "created", "exited") },
				"stop":   func(t *rapid.T) { w.do(t, "stop", w.halt, "running") },
				"remove": func(t *rapid.T) { w.do(t, "remove", w.remove, "created", "exited", "running") },
				"restart": func(t *rapid.T) {
					if len(w.steps()) > 0 {
						t.Skip()
					}
					t.Log("restart")
					w.begins()
				},
				"step": step, "another step": step, "one more step": step, "step on": step,
			}
			for _, what := range []string{"events", "sweep", "look", "compare"} {
				actions[what] = func(t *rapid.T) {
					t.Log("driver:", what)
					w.drive(what)
				}
			}
			rt.Repeat(actions)
			w.finish(func(steps int) int { return rapid.IntRange(0, steps-1).Draw(rt, "which") })
			w.check()
		})
	})
}
