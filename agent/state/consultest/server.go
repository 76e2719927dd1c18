// Package consultest runs real Consul servers for tests. Each is one process with its
// data in a temporary directory and listens only on 127.0.0.1. A test that cannot start
// its Consul fails; the package never skips a test. It never connects to a Consul that it
// did not start.
package consultest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// startDeadline is how long a server may take until it answers. It needs about 2 s, and
// more on a busy machine.
const startDeadline = 60 * time.Second

// startAttempts is the number of attempts to start a server. Another process may take a
// port between the check that it is free and Consul's bind.
const startAttempts = 5

// Options selects optional features of a server.
type Options struct {
	// ACL denies all requests without a token. Server.Token has all permissions.
	ACL bool
}

// Server is one Consul server.
type Server struct {
	opts  Options
	bin   string
	dir   string
	ports ports

	// Addr is the address of its HTTP interface, http://127.0.0.1:PORT. It stays the
	// same after a restart.
	Addr string
	// Token has all permissions. It is empty without Options.ACL.
	Token string

	mu      sync.Mutex
	process *process // nil while stopped
}

// Start starts a server without access control that runs until the test ends. It returns
// the server's address, http://127.0.0.1:PORT.
func Start(t testing.TB) string {
	t.Helper()
	return New(t, Options{}).Addr
}

// New starts a server that runs until the test ends. It returns when the server answers.
func New(t testing.TB, opts Options) *Server {
	t.Helper()
	bin, err := Binary()
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{opts: opts, bin: bin, dir: t.TempDir()}
	if opts.ACL {
		s.Token = "6f1c0f6e-0f5b-4a52-9d0b-6a2c4f1b7d90"
	}
	t.Cleanup(s.Kill)
	for attempt := 1; ; attempt++ {
		if s.ports, err = freePorts(); err != nil {
			t.Fatal(err)
		}
		s.Addr = fmt.Sprintf("http://127.0.0.1:%d", s.ports.http)
		err = s.start()
		if err == nil {
			return s
		}
		if attempt == startAttempts || !errors.Is(err, errExited) {
			t.Fatal(err)
		}
		if err := os.RemoveAll(filepath.Join(s.dir, "data")); err != nil {
			t.Fatal(err)
		}
	}
}

// Stop ends the server gracefully (SIGINT) and waits until it has exited.
func (s *Server) Stop() { s.end(os.Interrupt) }

// Kill ends the server as a power failure would (SIGKILL) and waits until it has exited.
func (s *Server) Kill() { s.end(os.Kill) }

// Restart starts a stopped or killed server on the same ports and data and returns when
// it answers. It first kills a server that still runs. Any goroutine of the test may call
// it.
func (s *Server) Restart() error {
	s.Kill()
	for attempt := 1; ; attempt++ {
		err := s.start()
		// The search for free ports of another server may hold a port briefly.
		if attempt == startAttempts || !errors.Is(err, errExited) {
			return err
		}
	}
}

func (s *Server) end(sig os.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil {
		return
	}
	s.process.end(sig)
	s.process = nil
}

func (s *Server) start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	config := filepath.Join(s.dir, "consul.json")
	content, err := json.Marshal(s.config())
	if err != nil {
		return fmt.Errorf("encode consul's configuration: %w", err)
	}
	if err := os.WriteFile(config, content, 0o600); err != nil {
		return fmt.Errorf("write consul's configuration: %w", err)
	}
	cmd := exec.Command(s.bin, "agent", "-config-file="+config)
	// The caller's environment must not affect the server.
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.dir}
	p, err := startProcess(cmd, filepath.Join(s.dir, "consul.log"))
	if err != nil {
		return err
	}
	s.process = p
	if err := s.waitReady(p); err != nil {
		p.end(os.Kill)
		s.process = nil
		return err
	}
	return nil
}

func (s *Server) config() map[string]any {
	config := map[string]any{
		"server":               true,
		"bootstrap_expect":     1,
		"node_name":            "consultest",
		"data_dir":             filepath.Join(s.dir, "data"),
		"bind_addr":            "127.0.0.1",
		"client_addr":          "127.0.0.1",
		"disable_update_check": true,
		"leave_on_terminate":   false,
		// A server that does not leave on SIGINT stays in its own peer set.
		"skip_leave_on_interrupt": true,
		"log_level":               "warn",
		// raft_multiplier 1: the server elects a leader within 2 s of its start.
		"performance": map[string]any{"raft_multiplier": 1},
		"connect":     map[string]any{"enabled": false},
		"limits":      map[string]any{"http_max_conns_per_client": 10000},
		"ports": map[string]any{
			"http": s.ports.http, "server": s.ports.server, "serf_lan": s.ports.serf,
			"serf_wan": -1, "dns": -1, "grpc": -1, "grpc_tls": -1, "https": -1,
		},
	}
	if s.opts.ACL {
		config["acl"] = map[string]any{
			"enabled": true, "default_policy": "deny",
			"tokens": map[string]any{"initial_management": s.Token, "agent": s.Token},
		}
	}
	return config
}

// waitReady returns when the server has a leader and has registered its own node.
// OpenSession requires both.
func (s *Server) waitReady(p *process) error {
	ctx, cancel := context.WithTimeout(context.Background(), startDeadline)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if s.ready(ctx) {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("%w: %s", errExited, p.tail())
		case <-ctx.Done():
			return fmt.Errorf("consul at %s is not ready after %v: %s", s.Addr, startDeadline, p.tail())
		case <-tick.C:
		}
	}
}

func (s *Server) ready(ctx context.Context) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.Addr+"/v1/catalog/node/consultest?consistent", nil)
	if err != nil {
		return false
	}
	if s.Token != "" {
		req.Header.Set("X-Consul-Token", s.Token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	var body bytes.Buffer
	if _, err := body.ReadFrom(resp.Body); err != nil {
		return false
	}
	return resp.StatusCode == http.StatusOK && bytes.Contains(body.Bytes(), []byte(`"consultest"`))
}
