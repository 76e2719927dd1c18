package driver

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/socketplane/socketplane/agent/api"
)

// TestSweep: an endpoint that Docker does not know goes; one that it knows stays,
// whatever else is, and so does, for once, one that it may be making just now.
func TestSweep(t *testing.T) {
	driven := func(e api.Endpoint) api.Endpoint {
		e.ID, e.Source, e.ContainerID = "e", api.SourceDriver, "e"
		return e
	}
	for name, tt := range map[string]struct {
		endpoint api.Endpoint
		docker   map[string]string // endpoints that Docker has, with their containers
		making   bool              // Docker has asked for it in this life of the agent
		sweeps   int
		after    time.Duration // between sweeps
		released bool
		describe []string
	}{
		"known, not joined":           {driven(api.Endpoint{}), map[string]string{"e": ""}, false, 2, time.Minute, false, nil},
		"known, in the making":        {driven(api.Endpoint{}), map[string]string{"e": ""}, true, 2, time.Minute, false, nil},
		"known, attached, no name":    {driven(api.Endpoint{Attached: true}), map[string]string{"e": "c"}, false, 1, time.Minute, false, []string{"c"}},
		"known, attached, described":  {api.Endpoint{ID: "e", Source: api.SourceDriver, ContainerID: "c", Attached: true}, map[string]string{"e": "c"}, false, 1, time.Minute, false, nil},
		"unknown, attached":           {driven(api.Endpoint{Attached: true}), map[string]string{"f": "c"}, false, 1, time.Minute, true, nil},
		"unknown, attached, making":   {driven(api.Endpoint{Attached: true}), nil, true, 1, time.Minute, true, nil},
		"unknown, making, once":       {driven(api.Endpoint{}), nil, true, 1, time.Minute, false, nil},
		"unknown, making, twice":      {driven(api.Endpoint{}), nil, true, 2, time.Minute, true, nil},
		"unknown, making, at once":    {driven(api.Endpoint{}), nil, true, 3, time.Second, false, nil},
		"unknown, of an earlier life": {driven(api.Endpoint{}), nil, false, 1, time.Minute, true, nil},
		"another door's":              {api.Endpoint{ID: "e", Source: api.SourceDocker, Attached: true}, nil, false, 2, time.Minute, false, nil},
	} {
		t.Run(name, func(t *testing.T) {
			a := &agent{endpoints: []api.Endpoint{tt.endpoint}}
			d := newTestDriver(a)
			if tt.making {
				d.known.begun("e")
			}
			there := &dockerd{
				networks: []map[string]any{
					dockersNetwork("n1", "web", "10.6.0.0/24", nil), {"Id": "n2", "Name": "bridge", "Driver": "bridge"},
				},
				endpoints: map[string]map[string]string{"n1": tt.docker},
			}
			engine := there.engine(t)
			for range tt.sweeps {
				if err := d.Sweep(t.Context(), engine); err != nil {
					t.Fatal(err)
				}
				for id := range d.doubted {
					d.doubted[id] = time.Now().Add(-tt.after)
				}
			}
			if got := slices.Contains(a.asked, "release e"); got != tt.released || len(a.asked) > 1 {
				t.Errorf("released: %v; asked %q", got, a.asked)
			}
			if got := d.joined.take(); !slices.Equal(got, tt.describe) {
				t.Errorf("to be described: %q, want %q", got, tt.describe)
			}
		})
	}
}

// TestSweepDoubtEnds: what was in doubt at one sweep, and known at the next, is
// not released when it is in doubt once more.
func TestSweepDoubtEnds(t *testing.T) {
	a := &agent{endpoints: []api.Endpoint{{ID: "e", Source: api.SourceDriver, ContainerID: "e"}}}
	d := newTestDriver(a)
	d.known.begun("e")
	there := &dockerd{networks: []map[string]any{dockersNetwork("n1", "web", "10.6.0.0/24", nil)}}
	engine := there.engine(t)
	for _, known := range []map[string]string{nil, {"e": ""}, nil} {
		there.mu.Lock()
		there.endpoints = map[string]map[string]string{"n1": known}
		there.mu.Unlock()
		if err := d.Sweep(t.Context(), engine); err != nil {
			t.Fatal(err)
		}
	}
	if len(a.asked) != 0 {
		t.Errorf("asked %q", a.asked)
	}
	// Docker cannot say: nothing is touched.
	a.endpoints[0].Attached = true
	there.mu.Lock()
	there.fails = true
	there.mu.Unlock()
	if err := d.Sweep(t.Context(), engine); err == nil || len(a.asked) != 0 {
		t.Errorf("%v; asked %q", err, a.asked)
	}
}

// joining lets an endpoint join its container while Docker is asked for its lists, as
// soon as the first of them has been read.
type joining struct {
	*dockerd
	join func()
}

func (j *joining) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	j.dockerd.ServeHTTP(w, r)
	if strings.HasSuffix(r.URL.Path, "/networks/n1") && j.join != nil {
		j.join()
		j.join = nil
	}
}

// TestSweepJoining: an endpoint that joins its container while a sweep asks Docker is
// left alone. Docker's list was read before it was in it.
func TestSweepJoining(t *testing.T) {
	for name, list := range map[string][]map[string]any{
		"its address was asked for by name": {asks("c", "fixed", "web", "10.6.0.9", "e")},
		"its address is dynamic":            nil,
	} {
		t.Run(name, func(t *testing.T) {
			a := &agent{networks: []api.Network{aNetwork("web", "10.6.0.0/24")}, endpoints: []api.Endpoint{driven("e", "10.6.0.9", false)}}
			d := newTestDriver(a)
			d.known.begun("e")
			there := &joining{dockerd: aKeptDockerd()}
			there.list = list
			there.join = func() {
				call(t, d.Handler(), "NetworkDriver.Join", `{"NetworkID":"n1","EndpointID":"e","SandboxKey":"/x"}`)
			}
			if err := d.Sweep(t.Context(), serveDocker(t, there)); err != nil {
				t.Fatal(err)
			}
			if want := []string{"attach e /x true"}; !slices.Equal(a.asked, want) {
				t.Errorf("asked %q, want %q", a.asked, want)
			}
		})
	}
}
