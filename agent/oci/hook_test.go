package oci

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/socketplane/socketplane/agent/api"
)

// recorder is an agent that only remembers. It sits behind the real handler.
type recorder struct {
	api.Service // what a test does not expect fails loudly
	mu          sync.Mutex
	endpoints   []api.Endpoint
	attached    []api.AttachRequest
	detached    []string
}

func (r *recorder) Attach(_ context.Context, req api.AttachRequest) (api.Endpoint, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.endpoints) == 0 {
		return api.Endpoint{}, api.Errorf(api.CodeNotFound, "container %q has no endpoint", req.ID)
	}
	r.attached = append(r.attached, req)
	return r.endpoints[0], nil
}

func (r *recorder) Detach(_ context.Context, id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.detached = append(r.detached, id)
	return nil
}

func listenAPI(t *testing.T, socket string, svc api.Service) {
	t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Error(err)
		return
	}
	server := &http.Server{Handler: api.NewHandler(svc, slog.New(slog.DiscardHandler))}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
}

func testBundle(t *testing.T, id string) (bundle, hosts string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "containers", id)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	hosts = filepath.Join(dir, "hosts")
	if err := os.WriteFile(hosts, []byte("127.0.0.1\tlocalhost\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf(`{"hostname":"box","mounts":[{"destination":"/etc/hosts","source":%q}]}`, hosts)
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir, hosts
}

func TestHook(t *testing.T) {
	id := strings.Repeat("ab", 32)
	bundle, hosts := testBundle(t, id)
	socket := filepath.Join(t.TempDir(), "s.sock")
	r := &recorder{endpoints: []api.Endpoint{{ID: id, ContainerName: "shop", IP: netip.MustParseAddr("10.6.0.9")}}}
	// The agent is away and comes back: the container's start waits for it.
	late := time.AfterFunc(200*time.Millisecond, func() { listenAPI(t, socket, r) })
	defer late.Stop()

	var stderr bytes.Buffer
	state := fmt.Sprintf(`{"ociVersion":"1.0.2","id":%q,"status":"creating","pid":4711,"bundle":%q,"annotations":{}}`, id, bundle)
	if code := RunHook(t.Context(), []string{"create-runtime", socket}, strings.NewReader(state), &stderr); code != 0 {
		t.Fatal(stderr.String())
	}
	want := []api.AttachRequest{{ID: id, NetNS: "/proc/4711/ns/net", Source: api.SourceDocker}}
	if diff := cmp.Diff(want, r.attached); diff != "" {
		t.Error(diff)
	}
	if got := readText(t, hosts); got != "127.0.0.1\tlocalhost\n10.6.0.9\tbox shop\n" {
		t.Errorf("%q", got)
	}
	ended([]string{"--force", id}, socket)
	ended([]string{"--force", "../no id"}, socket)
	ended(nil, socket)
	if diff := cmp.Diff([]string{id}, r.detached); diff != "" {
		t.Error(diff)
	}
}

func TestHookRefuses(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s.sock")
	listenAPI(t, socket, &recorder{})
	tests := []struct {
		name, state string
		args        []string
		says        string
	}{
		{"no arguments", `{}`, nil, "runtime"},
		{"unknown hook", `{"id":"ab","pid":1}`, []string{"prestart", socket}, "prestart"},
		{"no state", ``, []string{"create-runtime", socket}, "state"},
		{"no process", `{"id":"ab","pid":0}`, []string{"create-runtime", socket}, "process"},
		{"a path for an id", `{"id":"../x","pid":1}`, []string{"create-runtime", socket}, "id"},
		{"huge state", `{"id":"ab","x":"` + strings.Repeat("x", maxState) + `"}`, []string{"create-runtime", socket}, "larger"},
		{"not reserved", `{"id":"ab","pid":1,"bundle":"/x"}`, []string{"create-runtime", socket}, "no endpoint"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var stderr bytes.Buffer
			code := RunHook(t.Context(), tt.args, strings.NewReader(tt.state), &stderr)
			if code != 1 || strings.Count(stderr.String(), "\n") != 1 || !strings.Contains(stderr.String(), tt.says) {
				t.Errorf("exit %d, %q", code, stderr.String())
			}
		})
	}
}

func readText(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
