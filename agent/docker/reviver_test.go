package docker

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// halted is a dockerd with containers that do not run.
type halted struct {
	mu         sync.Mutex
	containers map[string][2]string // id -> restart policy, what its last start failed for
	created    string               // the one of them that has never run
	fails      string               // what a start fails for now
	started    []string
}

func (d *halted) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	w.Header().Set("Api-Version", "1.41")
	w.Header().Set("Content-Type", "application/json")
	parts := strings.Split(r.URL.Path, "/")
	switch {
	case strings.HasSuffix(r.URL.Path, "/containers/json"):
		var filters struct{ Status map[string]bool }
		_ = json.Unmarshal([]byte(r.URL.Query().Get("filters")), &filters)
		list := []map[string]string{}
		for id := range d.containers {
			status := "exited"
			if id == d.created {
				status = "created"
			}
			if len(filters.Status) == 0 || filters.Status[status] {
				list = append(list, map[string]string{"Id": id})
			}
		}
		_ = json.NewEncoder(w).Encode(list)
	case strings.HasSuffix(r.URL.Path, "/json"):
		c := d.containers[parts[len(parts)-2]]
		fmt.Fprintf(w, `{"HostConfig":{"RestartPolicy":{"Name":%q}},"State":{"Running":false,"Error":%q}}`, c[0], c[1])
	case strings.HasSuffix(r.URL.Path, "/start"):
		d.started = append(d.started, parts[len(parts)-2])
		if d.fails != "" {
			w.WriteHeader(http.StatusInternalServerError)
			fmt.Fprintf(w, `{"message":%q}`, d.fails)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	}
}

// TestReviver: what should run, and failed for want of something that passes, is
// started; nothing else is. While it has not passed, one is enough to see it.
func TestReviver(t *testing.T) {
	const away = `IpamDriver.RequestAddress: list "x": the store cannot be reached: consul at http://127.0.0.1:8500: connection refused; see that it runs, and try again`
	d := &halted{created: "never", containers: map[string][2]string{
		"store":   {"always", away},
		"switch":  {"unless-stopped", "NetworkDriver.Join: Open vSwitch cannot be reached; see that ovsdb-server and ovs-vswitchd run, and try again"},
		"lost":    {"always", "NetworkDriver.Join: " + LostCall + "; try again"},
		"late":    {"always", "NetworkDriver.Join: " + LateCall + "; what it changed for the container is undone"},
		"never":   {"always", away}, // its user was told
		"once":    {"no", away},
		"retries": {"on-failure", away},
		"stopped": {"always", ""},
		"port":    {"always", "port 0.0.0.0:80/tcp of this host is taken by another program"},
	}}
	socket := filepath.Join(t.TempDir(), "docker.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: d}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	engine, err := Dial("unix://" + socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = engine.Close() })

	r := NewReviver(slog.New(slog.DiscardHandler))
	if err := r.Sweep(t.Context(), engine); err != nil {
		t.Fatal(err)
	}
	slices.Sort(d.started)
	if want := []string{"late", "lost", "store", "switch"}; !slices.Equal(d.started, want) {
		t.Errorf("started %q, want %q", d.started, want)
	}
	d.started, d.fails = nil, away
	if err := r.Sweep(t.Context(), engine); err != nil {
		t.Fatal(err)
	}
	if len(d.started) != 1 {
		t.Errorf("while the store is away it tried %q", d.started)
	}
}
