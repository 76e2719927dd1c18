package docker

import (
	"context"
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
	"time"

	"github.com/moby/moby/api/types/events"

	"github.com/socketplane/socketplane/agent/api"
)

// daemon speaks the three calls of Docker's API that the watcher makes.
type daemon struct {
	mu         sync.Mutex
	containers []string
	names      map[string][]string // of containers; "/<id>" where there is none
	events     chan string         // ids of destroyed containers
	gone       chan struct{}
}

func (d *daemon) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Api-Version", "1.41")
	w.Header().Set("Content-Type", "application/json")
	switch {
	case strings.HasSuffix(r.URL.Path, "/_ping"):
		fmt.Fprint(w, "OK")
	case strings.HasSuffix(r.URL.Path, "/containers/json"):
		d.mu.Lock()
		defer d.mu.Unlock()
		list := []map[string]any{}
		for _, id := range d.containers {
			names := d.names[id]
			if names == nil {
				names = []string{"/" + id}
			}
			list = append(list, map[string]any{"Id": id, "Names": names})
		}
		_ = json.NewEncoder(w).Encode(list)
	case strings.HasSuffix(r.URL.Path, "/events"):
		flusher := w.(http.Flusher)
		flusher.Flush()
		for {
			select {
			case id := <-d.events:
				fmt.Fprintf(w, `{"Type":"container","Action":"destroy","Actor":{"ID":%q}}`+"\n", id)
				flusher.Flush()
			case <-d.gone:
				return
			case <-r.Context().Done():
				return
			}
		}
	default:
		http.NotFound(w, r)
	}
}

// listen serves until the test or the returned function ends it.
func (d *daemon) listen(t *testing.T, socket string) func() {
	t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: d}
	go func() { _ = server.Serve(l) }()
	stop := func() { _ = server.Close() }
	t.Cleanup(stop)
	return stop
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	over := time.After(10 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-over:
			t.Fatalf("never: %s", what)
		case <-tick.C:
		}
	}
}

func TestWatcher(t *testing.T) {
	id := func(c string) string { return strings.Repeat(c, 64) }
	endpoint := func(id string, source api.Source) api.Endpoint {
		return api.Endpoint{ID: id, ContainerName: id, Source: source}
	}
	r := &recorder{endpoints: []api.Endpoint{
		endpoint(id("a"), api.SourceDocker), endpoint(id("b"), api.SourceDocker), endpoint(id("c"), api.SourceDocker),
		endpoint("blue", api.SourceConnect),
	}}
	socket := filepath.Join(t.TempDir(), "docker.sock")
	w := NewWatcher(WatcherConfig{
		Socket: socket, Logger: slog.New(slog.DiscardHandler), Followers: []Follower{NewReleaser(r, slog.New(slog.DiscardHandler))},
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }() // before there is a dockerd

	// Container a was removed while nobody watched, and c renamed.
	d := &daemon{containers: []string{id("b"), id("c"), id("d")}, names: map[string][]string{id("c"): {"/b/alias", "/shop"}}, events: make(chan string), gone: make(chan struct{})}
	stop := d.listen(t, socket)
	eventually(t, "a released", func() bool { return slices.Contains(r.releasedIDs(), id("a")) })
	eventually(t, "c renamed", func() bool {
		return slices.Equal(r.renames(), []api.DescribeRequest{{ID: id("c"), ContainerID: id("c"), ContainerName: "shop"}})
	})
	// Others are Docker's alone; b goes while we watch.
	d.events <- id("d")
	d.events <- id("b")
	eventually(t, "b released", func() bool { return slices.Contains(r.releasedIDs(), id("b")) })

	// dockerd restarts, and c was removed meanwhile.
	stop()
	again := &daemon{events: make(chan string), gone: make(chan struct{})}
	again.listen(t, socket)
	eventually(t, "c released", func() bool { return slices.Contains(r.releasedIDs(), id("c")) })
	if got := r.releasedIDs(); len(got) != 3 {
		t.Errorf("released %q", got)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestRenamed: the agent hears of the new name of a container of ours, not of
// others'.
func TestRenamed(t *testing.T) {
	ours, others := strings.Repeat("a", 64), strings.Repeat("b", 64)
	r := &recorder{endpoints: []api.Endpoint{
		{ID: ours, Network: "web", Source: api.SourceDocker}, {ID: others, Network: "web", Source: api.SourceDriver},
	}}
	w := NewWatcher(WatcherConfig{Followers: []Follower{NewReleaser(r, slog.New(slog.DiscardHandler))}})
	for _, id := range []string{ours, others, strings.Repeat("c", 64)} {
		err := w.tell(t.Context(), nil, events.Message{
			Type: events.ContainerEventType, Action: events.ActionRename,
			Actor: events.Actor{ID: id, Attributes: map[string]string{"name": "shop", "oldName": "/old"}},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if want := []api.DescribeRequest{{ID: ours, ContainerID: ours, ContainerName: "shop"}}; !slices.Equal(r.renamed, want) {
		t.Errorf("renamed %+v, want %+v", r.renamed, want)
	}
}

func TestWatcherEnds(t *testing.T) {
	w := NewWatcher(WatcherConfig{Socket: filepath.Join(t.TempDir(), "none.sock"), Logger: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("Run does not end with its context")
	}
}

// busy is a follower whose sweep lasts until it is told to end.
type busy struct{ began, end chan struct{} }

func (b busy) Sweep(ctx context.Context, _ *Engine) error {
	close(b.began)
	select {
	case <-b.end:
	case <-ctx.Done():
	}
	return nil
}

func (busy) Event(context.Context, *Engine, Event) error { return nil }

// TestSlowFollower: one that takes long does not keep Docker's events from the others.
func TestSlowFollower(t *testing.T) {
	b := strings.Repeat("b", 64)
	r := &recorder{endpoints: []api.Endpoint{{ID: b, ContainerName: b, Source: api.SourceDocker}}}
	slow := busy{make(chan struct{}), make(chan struct{})}
	socket := filepath.Join(t.TempDir(), "docker.sock")
	d := &daemon{containers: []string{b}, events: make(chan string), gone: make(chan struct{})}
	d.listen(t, socket)
	w := NewWatcher(WatcherConfig{
		Socket: socket, Logger: slog.New(slog.DiscardHandler),
		Followers: []Follower{NewReleaser(r, slog.New(slog.DiscardHandler))}, Slow: []Follower{slow},
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	<-slow.began
	eventually(t, "b released", func() bool {
		select {
		case d.events <- b: // one of the two connections has it
		default:
		}
		return slices.Contains(r.releasedIDs(), b)
	})
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
