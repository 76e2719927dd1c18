package driver

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/docker"
)

// modelCluster is the agent as far as networks go.
type modelCluster struct {
	api.Service
	*stage

	mu       sync.Mutex
	networks map[string]api.Network
	kept     []netip.Prefix // reserved subnets, as last told
}

func (c *modelCluster) Networks(context.Context) ([]api.Network, error) {
	c.mu.Lock()
	list := []api.Network{}
	for _, n := range c.networks {
		list = append(list, n)
	}
	c.mu.Unlock()
	slices.SortFunc(list, func(a, b api.Network) int { return a.Subnet.Addr().Compare(b.Subnet.Addr()) })
	c.stop("the cluster's networks are read")
	return list, nil
}

func (c *modelCluster) Network(_ context.Context, id string) (api.Network, error) {
	c.mu.Lock()
	n, ok := c.networks[id]
	c.mu.Unlock()
	c.stop("network " + id + " is read")
	if !ok {
		return n, api.Errorf(api.CodeNotFound, "network %q does not exist", id)
	}
	return n, nil
}

func (c *modelCluster) CreateNetwork(_ context.Context, req api.CreateNetworkRequest) (api.Network, error) {
	if !req.DryRun {
		c.stop("network " + req.ID + " will be created")
	}
	c.mu.Lock()
	n, err := c.put(req)
	c.mu.Unlock()
	c.stop("network " + req.ID + " is created")
	return n, err
}

func (c *modelCluster) put(req api.CreateNetworkRequest) (api.Network, error) {
	subnet := netip.MustParsePrefix(req.Subnet)
	for _, n := range c.networks {
		switch {
		case n.ID == req.ID && n.Subnet == subnet:
			return n, nil
		case n.ID == req.ID, n.Subnet.Overlaps(subnet):
			return api.Network{}, api.Errorf(api.CodeConflict, "network %q: subnet %s overlaps network %q", req.ID, subnet, n.ID)
		}
	}
	n := api.Network{ID: req.ID, Subnet: subnet, Gateway: subnet.Addr().Next(), ByDocker: req.ByDocker}
	if !req.DryRun {
		c.networks[req.ID] = n
	}
	return n, nil
}

func (c *modelCluster) ReserveSubnet(_ context.Context, subnet netip.Prefix) (netip.Prefix, error) {
	c.mu.Lock()
	_, err := c.put(api.CreateNetworkRequest{ID: "new", Subnet: subnet.String(), DryRun: true})
	c.mu.Unlock()
	c.stop("subnet " + subnet.String() + " is reserved")
	return subnet, err
}

func (c *modelCluster) DockerSpec(context.Context, string, netip.Prefix) (api.DockerSpec, error) {
	return api.DockerSpec{}, nil
}

func (c *modelCluster) KeepSubnets(_ context.Context, subnets []netip.Prefix) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kept = subnets
	return nil
}

func (c *modelCluster) UsedElsewhere(context.Context, string) error { return nil }

func (c *modelCluster) Endpoints(context.Context) ([]api.Endpoint, error) { return nil, nil }

func (c *modelCluster) DeleteDockersNetwork(_ context.Context, id string, subnet netip.Prefix) error {
	c.stop("network " + id + " will be deleted")
	defer c.stop("network " + id + " is deleted")
	c.mu.Lock()
	defer c.mu.Unlock()
	n, ok := c.networks[id]
	switch {
	case !ok:
		return api.Errorf(api.CodeNotFound, "network %q does not exist", id)
	case !n.ByDocker || n.Subnet != subnet:
		return api.Errorf(api.CodeInUse, "network %q stays", id)
	}
	delete(c.networks, id)
	return nil
}

// world is Docker on this host, the cluster, and the driver between them, with
// what its users were told.
type world struct {
	checker
	*stage
	docker  *modelDocker
	cluster *modelCluster
	engine  *docker.Engine

	mu      sync.Mutex
	driver  *Driver
	lives   int
	users   map[string]*user // by the name of their network
	syncing bool
	telling bool
	said    []string // what users were told, and when
	// late are the networks that a user removes before Docker has told the driver that
	// it made them. The driver deletes them from the cluster once it has: it cannot tell
	// one that another host makes anew in that moment.
	late map[string]bool
	// stale are the networks that another host has deleted, and when, until a comparison
	// that begins after that has ended. Docker's network here stands for the old one. A
	// user who removes it in that moment may or may not mean one that is made anew.
	stale     map[string]int
	deletions int
}

// checker is the test that fails.
type checker interface {
	Errorf(format string, args ...any)
	Fatal(args ...any)
	Log(args ...any)
	Failed() bool
}

// user makes and removes one network, on this host or another, one thing after the other.
type user struct {
	busy string
	want presence
}

type presence string

const (
	absent  presence = "absent"
	present presence = "present"
	either  presence = "present or absent"
)

var modelSubnets = map[string]string{"a": "10.10.0.0/24", "b": "10.11.0.0/24", "c": "10.12.0.0/24"}

func (w *world) life() *Driver {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.driver
}

// begin has a user do something; it says how it will be once it is done.
func (w *world) begin(name, what string, do func(before presence) presence) {
	u := w.users[name]
	w.mu.Lock()
	if u.busy != "" {
		w.mu.Unlock()
		return
	}
	u.busy = what
	before := u.want
	lives := w.lives
	w.mu.Unlock()
	w.run(func() {
		got := do(before)
		w.mu.Lock()
		defer w.mu.Unlock()
		if what == "remove" && got == absent && lives != w.lives {
			got = either // see knows
		}
		u.busy, u.want = "", got
		w.said = append(w.said, fmt.Sprintf("%s %s: it is %s", what, name, got))
	})
}

func (w *world) actions() map[string]func(*rapid.T) {
	name := rapid.SampledFrom([]string{"a", "b", "c"})
	return map[string]func(*rapid.T){
		"make": func(t *rapid.T) {
			n := modelNetwork{name: name.Draw(t, "name")}
			n.subnet = modelSubnets[n.name]
			if rapid.Bool().Draw(t, "named") {
				n.options = map[string]string{docker.OptionNetwork: n.name}
			}
			w.begin(n.name, "make", func(before presence) presence {
				if _, err := w.docker.create(n, false); err != nil {
					return before
				}
				return present
			})
		},
		"remove": func(t *rapid.T) {
			n := name.Draw(t, "name")
			var id string
			for _, there := range w.docker.listed() {
				if there.name == n {
					id = there.id
				}
			}
			if id == "" {
				t.Skip()
			}
			w.cluster.mu.Lock()
			_, inCluster := w.cluster.networks[n]
			w.cluster.mu.Unlock()
			knows := w.life().known.knows(id, inCluster)
			w.mu.Lock()
			w.late[n] = w.late[n] || w.driver.known.makes(id)
			_, stale := w.stale[n]
			w.mu.Unlock()
			w.begin(n, "remove", func(before presence) presence {
				if !w.docker.remove(id) {
					return before
				}
				w.cluster.mu.Lock()
				defer w.cluster.mu.Unlock()
				if there, ok := w.cluster.networks[n]; ok && !there.ByDocker {
					return present
				}
				if !knows || stale {
					return either
				}
				return absent
			})
		},
		"another host makes": func(t *rapid.T) {
			n, byDocker := name.Draw(t, "name"), rapid.Bool().Draw(t, "by docker")
			w.mu.Lock()
			late := w.late[n]
			w.mu.Unlock()
			if late {
				t.Skip()
			}
			w.begin(n, "elsewhere", func(presence) presence {
				w.cluster.mu.Lock()
				defer w.cluster.mu.Unlock()
				_, _ = w.cluster.put(api.CreateNetworkRequest{ID: n, Subnet: modelSubnets[n], ByDocker: byDocker})
				return present
			})
		},
		"another host deletes": func(t *rapid.T) {
			n := name.Draw(t, "name")
			for _, there := range w.docker.listed() {
				// One that still waits for its name is made after this, and another life
				// of the driver takes a young one for such.
				_, bound := w.life().known.network(there.id)
				if there.name == n && (!bound || len(there.options) == 0 && w.life().known.young(there.created)) {
					t.Skip()
				}
			}
			w.begin(n, "elsewhere", func(before presence) presence {
				w.cluster.mu.Lock()
				defer w.cluster.mu.Unlock()
				if _, ok := w.cluster.networks[n]; !ok {
					return before
				}
				delete(w.cluster.networks, n)
				w.mu.Lock()
				defer w.mu.Unlock()
				w.deletions++
				w.stale[n] = w.deletions
				return absent
			})
		},
		"sync":  func(*rapid.T) { w.sync() },
		"event": func(*rapid.T) { w.tell() },
		"unwritten": func(*rapid.T) {
			w.docker.mu.Lock()
			defer w.docker.mu.Unlock()
			w.docker.failing = true
		},
		"time passes": func(t *rapid.T) {
			if !w.passing() {
				t.Skip()
			}
		},
		"restart": func(t *rapid.T) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.syncing || w.telling {
				t.Skip()
			}
			w.begins()
		},
		"step": w.step, "another step": w.step, "one more step": w.step, "step on": w.step,
	}
}

// step lets those go on that have stopped, one at a time.
func (w *world) step(t *rapid.T) {
	if len(w.steps()) == 0 {
		t.Skip()
	}
	for range rapid.IntRange(1, 6).Draw(t, "how many") {
		steps := w.steps()
		if len(steps) == 0 {
			return
		}
		i := rapid.IntRange(0, len(steps)-1).Draw(t, "which")
		w.mu.Lock()
		w.said = append(w.said, steps[i])
		w.mu.Unlock()
		w.advance(i)
	}
}

// begins begins another life of the driver.
func (w *world) begins() {
	w.driver = New(Config{Service: w.cluster, Logger: newTestDriver(nil).Logger})
	w.lives++
}

func (w *world) sync() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.syncing {
		return
	}
	w.syncing = true
	d, deletions := w.driver, w.deletions
	w.mu.Unlock()
	w.run(func() {
		_ = d.sync(context.Background(), w.engine) // it is tried again
		w.mu.Lock()
		defer w.mu.Unlock()
		w.syncing = false
		clear(w.late)
		maps.DeleteFunc(w.stale, func(_ string, at int) bool { return at <= deletions })
	})
	w.mu.Lock()
}

func (w *world) tell() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.telling {
		return
	}
	e, ok := w.docker.next()
	if !ok {
		return
	}
	w.telling = true
	d := w.driver
	w.mu.Unlock()
	w.run(func() {
		_ = d.Event(context.Background(), w.engine, e) // the sweep finds it
		w.mu.Lock()
		defer w.mu.Unlock()
		w.telling = false
	})
	w.mu.Lock()
}

// passing lets as much time pass as Docker never needs to write a network down: not while
// it makes one. Its events may be told later than that.
func (w *world) passing() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, u := range w.users {
		if u.busy == "make" {
			return false
		}
	}
	select {
	case <-w.driver.known.compared: // the sweep comes with the driver's life
	default:
		return false
	}
	if w.telling {
		return false
	}
	const by = expectTime + time.Second
	w.docker.age(by)
	w.driver.known.age(by)
	return true
}

// knows says whether the driver can know which network a Docker network stands for.
// Docker hides a network that it removes, so one that the driver has not heard of in
// this life can be any. So can one whose name Docker has not told yet, where another
// host has just made a network with the same subnet.
func (r *registry) knows(id string, inCluster bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, bound := r.bound[id]
	_, pending := r.pending[id]
	return bound || r.entering[id] != nil || pending && !inCluster
}

// makes says whether the driver has asked Docker for a network and has no answer yet.
func (r *registry) makes(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.making != nil && r.making.id == id
}

// age makes all that is known older.
func (r *registry) age(by time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, w := range r.pending {
		w.until = w.until.Add(-by)
		r.pending[id] = w
	}
	for name, e := range r.users {
		e.until = e.until.Add(-by)
		r.users[name] = e
	}
	for id, since := range r.missing {
		r.missing[id] = since.Add(-by)
	}
	r.began = r.began.Add(-by)
}

// idle says whether all that was begun has ended.
func (w *world) idle() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for name, u := range w.users {
		if u.busy != "" {
			return fmt.Errorf("%s %s goes on", u.busy, name)
		}
	}
	if w.syncing || w.telling {
		return fmt.Errorf("sync goes on: %v, an event is told: %v", w.syncing, w.telling)
	}
	return nil
}

// end lets all that was begun end, and then the driver compare as often as it would.
// pick chooses one of so many steps.
func (w *world) end(pick func(steps int) int) {
	finish := func() {
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
			for n := len(w.steps()); n > 0; n = len(w.steps()) {
				w.advance(pick(n))
			}
			err := w.idle()
			if err == nil {
				return
			}
			if time.Now().After(deadline) {
				w.Fatal(err)
			}
		}
	}
	finish()
	for range 4 {
		for _, told := w.docker.peek(); told; _, told = w.docker.peek() {
			w.tell()
			finish()
		}
		w.sync()
		finish()
		w.passing()
	}
}

func (m *modelDocker) peek() (docker.Event, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.events) == 0 {
		return docker.Event{}, false
	}
	return m.events[0], true
}

// check compares what is there with what users were told.
func (w *world) check() {
	defer func() {
		if w.Failed() {
			w.Log(strings.Join(w.said, "\n"))
		}
	}()
	for name, u := range w.users {
		_, inCluster := w.cluster.networks[name]
		standing := w.docker.standing(name)
		switch {
		case u.want == absent && (inCluster || len(standing) > 0):
			w.Errorf("network %s was removed and is there: in the cluster: %v, in Docker: %q", name, inCluster, standing)
		case u.want == present && (!inCluster || len(standing) != 1):
			w.Errorf("network %s was made and is not there: in the cluster: %v, in Docker: %q", name, inCluster, standing)
		case inCluster != (len(standing) == 1) || len(standing) > 1:
			w.Errorf("network %s is half there: in the cluster: %v, in Docker: %q", name, inCluster, standing)
		}
	}
}

// newWorld begins with nothing.
func newWorld(t checker) *world {
	s := &stage{}
	w := &world{
		checker: t, stage: s, docker: newModelDocker(s), cluster: &modelCluster{stage: s, networks: map[string]api.Network{}},
		late: map[string]bool{}, stale: map[string]int{},
		users: map[string]*user{"a": {want: absent}, "b": {want: absent}, "c": {want: absent}},
	}
	engine, err := docker.DialOver(w.docker)
	if err != nil {
		t.Fatal(err)
	}
	w.engine = engine
	w.begins()
	w.docker.plugin = func() http.Handler { return w.life().Handler() }
	return w
}

// TestModel: in whatever order networks are made and removed, here and on other
// hosts, compared and told of: who was told that a network is removed, or made,
// was told the truth. The seed is fixed, and the bubble's clock is not the machine's:
// the same orders are tried each time. SOCKETPLANE_TEST_LONG tries new ones.
func TestModel(t *testing.T) {
	checks, seed := "100", "1"
	if os.Getenv("SOCKETPLANE_TEST_LONG") != "" {
		checks, seed = "10000", "0"
	}
	for name, value := range map[string]string{
		"checks": checks, "seed": seed, "steps": "60",
		"shrinktime": "30s", // of the bubble's clock: a few hundred attempts
		"nofailfile": "true",
	} {
		setRapid(t, name, value)
	}
	synctest.Test(t, func(t *testing.T) {
		rapid.Check(bubbled{t}, func(rt *rapid.T) {
			w := newWorld(rt)
			defer w.release() // a failed one as well
			if rapid.Bool().Draw(rt, "networks of old") {
				for _, name := range []string{"a", "b", "c"} {
					w.old(name)
				}
			}
			rt.Repeat(w.actions())
			w.end(func(steps int) int { return rapid.IntRange(0, steps-1).Draw(rt, "which") })
			w.check()
		})
	})
}

// bubbled is a test in a bubble. It has no deadline, and rapid asks none but a
// *testing.T for it.
type bubbled struct{ *testing.T }

// setRapid sets a flag of rapid's until the test ends, unless the command line does.
func setRapid(t *testing.T, name, value string) {
	t.Helper()
	f := flag.Lookup("rapid." + name)
	given := false
	flag.Visit(func(set *flag.Flag) { given = given || set.Name == f.Name })
	if given {
		return
	}
	old := f.Value.String()
	if err := f.Value.Set(value); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Value.Set(old) })
}

// old makes a network that has been there for long.
func (w *world) old(name string) (id string) {
	made := make(chan string, 1)
	w.begin(name, "make", func(presence) presence {
		id, err := w.docker.create(modelNetwork{name: name, subnet: modelSubnets[name]}, false)
		if err != nil {
			w.Errorf("make %s: %v", name, err)
		}
		made <- id
		return present
	})
	for _, then := range []func(){func() {}, w.tell, w.sync} {
		then()
		for len(w.steps()) > 0 {
			w.advance(0)
		}
	}
	id = <-made
	w.passing()
	return id
}

// TestRemovedWhileCompared: while Docker removes b, a comparison finds b in the
// cluster and not in Docker's list. It must not make b again.
func TestRemovedWhileCompared(t *testing.T) { synctest.Test(t, removedWhileCompared) }

func removedWhileCompared(t *testing.T) {
	w := newWorld(t)
	defer w.release()
	b := w.old("b")
	w.begin("b", "remove", func(presence) presence {
		w.docker.remove(b)
		return absent
	})
	w.sync()
	hold := func(held ...string) {
		for i := 0; i >= 0; {
			i = slices.IndexFunc(w.steps(), func(s string) bool { return !slices.Contains(held, s) })
			if i >= 0 {
				w.advance(i)
			}
		}
	}
	hold("remove b: it is marked", "create b: it has its pool") // as far as the comparison can go
	hold("create b: it has its pool")
	w.end(func(int) int { return 0 })
	w.check()
}

// TestRemovedWhileMade: a user removes a network of another host's that the agent has
// just asked Docker for, before Docker has answered. It stays removed.
func TestRemovedWhileMade(t *testing.T) { synctest.Test(t, removedWhileMade) }

func removedWhileMade(t *testing.T) {
	w := newWorld(t)
	defer w.release()
	w.begin("b", "elsewhere", func(presence) presence {
		w.cluster.mu.Lock()
		defer w.cluster.mu.Unlock()
		_, _ = w.cluster.put(api.CreateNetworkRequest{ID: "b", Subnet: modelSubnets["b"], ByDocker: true})
		return present
	})
	w.sync()
	for !slices.Contains(w.steps(), "create b: it is listed") {
		w.advance(0)
	}
	w.begin("b", "remove", func(presence) presence {
		w.docker.remove(w.docker.listed()[0].id)
		return absent
	})
	for i := 0; i >= 0; {
		if i = slices.IndexFunc(w.steps(), func(s string) bool { return s != "create b: it is listed" }); i >= 0 {
			w.advance(i)
		}
	}
	w.end(func(int) int { return 0 })
	w.check()
}
