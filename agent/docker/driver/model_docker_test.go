package driver

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/socketplane/socketplane/agent/docker"
)

// stage holds the steps of everything that runs in the model back until the test
// lets them go, so that the test chooses the order. It works in a bubble of synctest:
// there it is known when all have stopped, end, or wait for another.
type stage struct {
	mu      sync.Mutex
	free    bool // nothing is held back any more
	waiting []step
}

type step struct {
	what string
	next chan struct{}
}

// stop is called between two steps of an operation.
func (s *stage) stop(what string) {
	s.mu.Lock()
	if s.free {
		s.mu.Unlock()
		return
	}
	held := step{what, make(chan struct{})}
	s.waiting = append(s.waiting, held)
	s.mu.Unlock()
	<-held.next
}

// run starts an operation and returns when it has stopped, ended, or waits for another.
func (s *stage) run(op func()) {
	go op()
	s.settle()
}

// advance lets one operation take its next step.
func (s *stage) advance(i int) {
	s.mu.Lock()
	held := s.waiting[i]
	s.waiting = slices.Delete(s.waiting, i, i+1)
	s.mu.Unlock()
	close(held.next)
	s.settle()
}

// settle lets the bubble's clock go on as well: no two things happen at one time.
func (s *stage) settle() { time.Sleep(time.Millisecond) }

func (s *stage) steps() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []string
	for _, w := range s.waiting {
		list = append(list, w.what)
	}
	return list
}

// release lets everything run to its end.
func (s *stage) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free = true
	for _, w := range s.waiting {
		close(w.next)
	}
	s.waiting = nil
}

// modelDocker is dockerd as far as networks go, in the order of libnetwork's
// controller.go and network.go: a network is in the list once the driver has made
// it, and is not in it any more when the driver is told to delete it.
type modelDocker struct {
	*stage
	plugin func() http.Handler

	mu       sync.Mutex
	made     int
	failing  bool // the next network that the agent asks for cannot be written down
	networks map[string]*modelNetwork
	events   []docker.Event
}

type modelNetwork struct {
	id, name string
	subnet   string
	gateway  string
	options  map[string]string
	labels   map[string]string
	created  time.Time
	inDelete bool
}

func newModelDocker(s *stage) *modelDocker {
	return &modelDocker{stage: s, networks: map[string]*modelNetwork{}}
}

// call calls the plugin.
func (m *modelDocker) call(method string, req any) (map[string]any, error) {
	body, err := json.Marshal(req)
	if err != nil {
		return nil, err
	}
	w := httptest.NewRecorder()
	m.plugin().ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/"+method, strings.NewReader(string(body))))
	var answer map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
		return nil, err
	}
	if w.Code != http.StatusOK {
		return nil, fmt.Errorf("%s: %v", method, answer["Err"])
	}
	return answer, nil
}

// create is POST /networks/create. unwritten: the network cannot be written down.
func (m *modelDocker) create(n modelNetwork, unwritten bool) (string, error) {
	m.mu.Lock()
	for _, other := range m.networks {
		if other.name == n.name && !other.inDelete {
			m.mu.Unlock()
			return "", fmt.Errorf("network with name %s already exists", n.name)
		}
	}
	m.made++
	n.id = fmt.Sprintf("id%d", m.made)
	m.mu.Unlock()
	m.stop("create " + n.name + ": its name is free")
	pool, err := m.call("IpamDriver.RequestPool", map[string]any{"AddressSpace": "socketplane", "Pool": n.subnet})
	if err != nil {
		return "", err
	}
	n.subnet = pool["Pool"].(string)
	release := func() { _, _ = m.call("IpamDriver.ReleasePool", map[string]any{"PoolID": pool["PoolID"]}) }
	m.stop("create " + n.name + ": it has its pool")
	address, err := m.call("IpamDriver.RequestAddress", map[string]any{
		"PoolID": pool["PoolID"], "Address": n.gateway, "Options": map[string]string{optionType: typeGateway},
	})
	if err != nil {
		release()
		return "", err
	}
	_, err = m.call("NetworkDriver.CreateNetwork", map[string]any{
		"NetworkID": n.id, "Options": map[string]any{optionGeneric: n.options},
		"IPv4Data": []map[string]any{{"AddressSpace": "socketplane", "Pool": n.subnet, "Gateway": address["Address"]}},
	})
	if err != nil {
		release()
		return "", err
	}
	n.gateway = strings.Split(address["Address"].(string), "/")[0]
	m.stop("create " + n.name + ": the driver has made it")
	if unwritten {
		_, _ = m.call("NetworkDriver.DeleteNetwork", map[string]any{"NetworkID": n.id})
		release()
		return "", errors.New("the disk is full")
	}
	m.mu.Lock()
	n.created = time.Now()
	m.networks[n.id] = &n
	m.mu.Unlock()
	m.stop("create " + n.name + ": it is listed")
	m.mu.Lock()
	m.events = append(m.events, docker.Event{Kind: docker.NetworkMade, ID: n.id, Name: n.name})
	m.mu.Unlock()
	m.stop("create " + n.name + ": it is told")
	return n.id, nil
}

// remove is DELETE /networks/id. False: there is none.
func (m *modelDocker) remove(id string) bool {
	m.mu.Lock()
	n := m.networks[id]
	if n == nil || n.inDelete {
		m.mu.Unlock()
		return false
	}
	n.inDelete = true
	m.mu.Unlock()
	m.stop("remove " + n.name + ": it is marked")
	_, _ = m.call("NetworkDriver.DeleteNetwork", map[string]any{"NetworkID": id}) // dockerd logs a failure
	m.stop("remove " + n.name + ": the driver has deleted it")
	_, _ = m.call("IpamDriver.ReleasePool", map[string]any{"PoolID": n.subnet})
	m.mu.Lock()
	delete(m.networks, id)
	m.events = append(m.events, docker.Event{Kind: docker.NetworkRemoved, ID: id, Name: n.name})
	m.mu.Unlock()
	m.stop("remove " + n.name + ": it is gone")
	return true
}

// listed gives Docker's networks, those first that were made first.
func (m *modelDocker) listed() []modelNetwork {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []modelNetwork
	for _, id := range slices.Sorted(maps.Keys(m.networks)) {
		if n := m.networks[id]; !n.inDelete {
			list = append(list, *n)
		}
	}
	slices.SortFunc(list, func(a, b modelNetwork) int { return cmp.Or(a.created.Compare(b.created), cmp.Compare(a.id, b.id)) })
	return list
}

// age makes every network older.
func (m *modelDocker) age(by time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range m.networks {
		n.created = n.created.Add(-by)
	}
}

// next takes the oldest event that was not told yet.
func (m *modelDocker) next() (e docker.Event, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.events) == 0 {
		return e, false
	}
	e = m.events[0]
	m.events = m.events[1:]
	return e, true
}

// ServeHTTP is Docker's API, as the agent uses it.
func (m *modelDocker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Api-Version", "1.41")
	w.Header().Set("Content-Type", "application/json")
	_, path, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	id, one := strings.CutPrefix(path, "networks/")
	switch {
	case strings.HasSuffix(r.URL.Path, "/_ping"):
	case r.Method == http.MethodGet && path == "networks":
		list := []any{}
		for _, n := range m.listed() {
			list = append(list, n.json())
		}
		m.stop("sync: docker's networks are read")
		_ = json.NewEncoder(w).Encode(list)
	case r.Method == http.MethodPost && id == "create":
		var req struct {
			Name            string
			Options, Labels map[string]string
			IPAM            struct {
				Config []struct{ Subnet, Gateway string }
			}
		}
		_ = json.NewDecoder(r.Body).Decode(&req)
		m.mu.Lock()
		failing := m.failing
		m.failing = false
		m.mu.Unlock()
		id, err := m.create(modelNetwork{
			name: req.Name, subnet: req.IPAM.Config[0].Subnet, gateway: req.IPAM.Config[0].Gateway, options: req.Options, labels: req.Labels,
		}, failing)
		if err != nil {
			w.WriteHeader(http.StatusInternalServerError)
			_ = json.NewEncoder(w).Encode(map[string]string{"message": err.Error()})
			return
		}
		w.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(w).Encode(map[string]string{"Id": id})
	case r.Method == http.MethodGet && one:
		for _, n := range m.listed() {
			if n.id == id {
				_ = json.NewEncoder(w).Encode(n.json())
				return
			}
		}
		w.WriteHeader(http.StatusNotFound)
		_, _ = w.Write([]byte(`{"message":"no such network"}`))
	case r.Method == http.MethodDelete && one:
		if !m.remove(id) {
			w.WriteHeader(http.StatusNotFound)
			_, _ = w.Write([]byte(`{"message":"no such network"}`))
			return
		}
		w.WriteHeader(http.StatusNoContent)
	default:
		http.NotFound(w, r)
	}
}

func (n modelNetwork) json() any {
	return map[string]any{
		"Id": n.id, "Name": n.name, "Driver": docker.DriverName, "Options": n.options, "Labels": n.labels, "Created": n.created.Format(time.RFC3339Nano),
		"IPAM": map[string]any{"Driver": docker.DriverName, "Config": []map[string]string{{"Subnet": n.subnet, "Gateway": n.gateway}}},
	}
}

// RoundTrip has a request answered.
func (m *modelDocker) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	m.ServeHTTP(w, r)
	return w.Result(), nil
}

// standing gives the Docker networks that stand for a network of the cluster.
func (m *modelDocker) standing(network string) []string {
	var ids []string
	for _, n := range m.listed() {
		if (docker.Network{Name: n.name, Options: n.options}).StandsFor() == network {
			ids = append(ids, n.id+" "+netip.MustParsePrefix(n.subnet).String())
		}
	}
	return ids
}
