package driver

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/docker"
)

// dockerd has networks and lets them be made and removed.
type dockerd struct {
	mu       sync.Mutex
	networks []map[string]any
	asked    []string
	fails    bool // says nothing of a network
	// endpoints are the networks' by id: endpoint -> container, "" where none has joined.
	endpoints map[string]map[string]string
	// containers are those that can be inspected: id -> endpoint. Of one whose
	// endpoint is "hangs" nothing is said while the caller waits.
	containers map[string]string
	// list is what Docker's list of containers answers.
	list []map[string]any
}

func (d *dockerd) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Api-Version", "1.41")
	w.Header().Set("Content-Type", "application/json")
	_, path, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if id, ok := strings.CutPrefix(strings.TrimSuffix(path, "/json"), "containers/"); ok && d.containers[id] == "hangs" {
		<-r.Context().Done()
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case strings.HasSuffix(r.URL.Path, "/_ping"):
	case r.Method == http.MethodGet && path == "networks":
		_ = json.NewEncoder(w).Encode(d.networks)
	case r.Method == http.MethodGet && strings.HasPrefix(path, "networks/") && d.fails:
		w.WriteHeader(http.StatusInternalServerError)
	case r.Method == http.MethodGet && strings.HasPrefix(path, "networks/"):
		list := map[string]any{}
		for endpoint, container := range d.endpoints[strings.TrimPrefix(path, "networks/")] {
			if container == "" {
				container = "ep-" + endpoint
			}
			list[container] = map[string]string{"EndpointID": endpoint}
		}
		whole := map[string]any{}
		for _, n := range d.networks {
			if n["Id"] == strings.TrimPrefix(path, "networks/") {
				maps.Copy(whole, n)
			}
		}
		whole["Containers"] = list
		_ = json.NewEncoder(w).Encode(whole)
	case r.Method == http.MethodGet && path == "containers/json":
		var filters struct{ ID, Status map[string]bool }
		_ = json.Unmarshal([]byte(r.URL.Query().Get("filters")), &filters)
		list := []map[string]any{}
		for _, c := range d.list {
			id, _ := c["Id"].(string)
			state, _ := c["State"].(string)
			if (len(filters.ID) == 0 || filters.ID[id]) && (len(filters.Status) == 0 || filters.Status[state]) {
				list = append(list, c)
			}
		}
		_ = json.NewEncoder(w).Encode(list)
	case r.Method == http.MethodGet && strings.HasPrefix(path, "containers/"):
		id := strings.TrimSuffix(strings.TrimPrefix(path, "containers/"), "/json")
		networks := map[string]any{"web": map[string]string{"EndpointID": d.containers[id]}}
		_ = json.NewEncoder(w).Encode(map[string]any{"Id": id, "Name": "/name-" + id, "NetworkSettings": map[string]any{"Networks": networks}})
	case r.Method == http.MethodDelete && strings.HasPrefix(path, "networks/"):
		d.asked = append(d.asked, "remove "+strings.TrimPrefix(path, "networks/"))
		w.WriteHeader(http.StatusNoContent)
	case r.Method == http.MethodPost && path == "networks/create":
		var req struct {
			Name string
			IPAM struct {
				Config []struct{ AuxiliaryAddresses map[string]string }
			}
		}
		_ = json.NewDecoder(r.Body).Decode(&req)
		asked := "make " + req.Name
		if len(req.IPAM.Config) > 0 && len(req.IPAM.Config[0].AuxiliaryAddresses) > 0 {
			asked += fmt.Sprint(" ", req.IPAM.Config[0].AuxiliaryAddresses)
		}
		d.asked = append(d.asked, asked)
		_, _ = w.Write([]byte(`{"Id":"new"}`))
	default:
		http.NotFound(w, r)
	}
}

func (d *dockerd) engine(t *testing.T) *docker.Engine {
	t.Helper()
	return serveDocker(t, d)
}

// serveDocker has Docker's API answered until the test ends.
func serveDocker(t *testing.T, answers http.Handler) *docker.Engine {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "docker.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: answers}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	engine, err := docker.Dial("unix://" + socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = engine.Close() })
	return engine
}

func dockersNetwork(id, name, subnet string, options map[string]string) map[string]any {
	return map[string]any{
		"Id": id, "Name": name, "Driver": docker.DriverName, "Options": options, "Created": "2026-01-02T03:04:05Z",
		"IPAM": map[string]any{"Driver": docker.DriverName, "Config": []map[string]string{{"Subnet": subnet}}},
	}
}

// only is an agent in which no other network can have a subnet that is taken.
type only struct{ *agent }

func (o only) CreateNetwork(ctx context.Context, req api.CreateNetworkRequest) (api.Network, error) {
	networks, err := o.Networks(ctx)
	if err != nil {
		return api.Network{}, err
	}
	for _, n := range networks {
		if n.Subnet.String() == req.Subnet && n.ID != req.ID {
			return api.Network{}, api.Errorf(api.CodeConflict, "subnet %s is %q's", req.Subnet, n.ID)
		}
	}
	return o.agent.CreateNetwork(ctx, req)
}

// TestSync: Docker's networks become those of the cluster, each under its own name.
func TestSync(t *testing.T) {
	for name, tt := range map[string]struct {
		there   map[string]any
		waits   bool // for its name, made by a user a moment ago
		asked   []string
		present bool // it stands for the cluster's network "web"
	}{
		"none":                  {nil, false, []string{"make web"}, false},
		"ours":                  {dockersNetwork("n1", "web", "10.6.0.0/24", map[string]string{docker.OptionNetwork: "web"}), false, nil, true},
		"a user's":              {dockersNetwork("n1", "web", "10.6.0.0/24", nil), false, nil, true},
		"named otherwise":       {dockersNetwork("n1", "mine", "10.6.0.0/24", map[string]string{docker.OptionNetwork: "web"}), false, nil, true},
		"taken by another host": {dockersNetwork("n1", "shop", "10.6.0.0/24", nil), true, []string{"remove n1", "make web"}, false},
		"taken long ago":        {dockersNetwork("n1", "shop", "10.6.0.0/24", nil), false, []string{"remove n1", "make web"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			d := newTestDriver(nil)
			d.Service = only{&agent{networks: []api.Network{aNetwork("web", "10.6.0.0/24")}}}
			there := &dockerd{networks: []map[string]any{}}
			if tt.there != nil {
				there.networks = append(there.networks, tt.there)
			}
			if tt.waits {
				if err := d.known.await("n1", wish{subnet: netip.MustParsePrefix("10.6.0.0/24")}); err != nil {
					t.Fatal(err)
				}
			}
			if err := d.sync(t.Context(), there.engine(t)); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(there.asked, tt.asked) {
				t.Errorf("docker was asked %q, want %q", there.asked, tt.asked)
			}
			if n, ok := d.known.network("n1"); ok != tt.present || ok && n != "web" {
				t.Errorf("n1 stands for %q, %v", n, ok)
			}
		})
	}
}

// TestRenamed: who was renamed is described to the agent anew.
func TestRenamed(t *testing.T) {
	d := newTestDriver(&agent{})
	if err := d.Event(t.Context(), nil, docker.Event{Kind: docker.ContainerRenamed, ID: "c1", Name: "shop"}); err != nil {
		t.Fatal(err)
	}
	if got := d.joined.take(); !slices.Equal(got, []string{"c1"}) {
		t.Errorf("to be described: %q", got)
	}
}
