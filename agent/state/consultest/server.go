// Package consultest owns real Consul servers for tests: one process, with its
// data in a temporary directory, listening on 127.0.0.1 only. It never skips: a
// test that cannot have its Consul fails. It never talks to a Consul that it
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

// startDeadline is how long a server may take until it answers: it needs
// about 2 s, and a busy machine more.
const startDeadline = 60 * time.Second

// startAttempts is how often a start is tried: another process may take a port
// between the moment it was found free and the moment Consul binds it.
const startAttempts = 5

// Options is what a server may have beyond the ordinary.
type Options struct {
	// ACL denies everything to those who have no token. Server.Token may do
	// everything.
	ACL bool
}

// Server is one Consul server.
type Server struct {
	opts  Options
	bin   string
	dir   string
	ports ports

	// Addr is the address of its HTTP interface, http://127.0.0.1:PORT. It
	// stays the same when the server is started again.
	Addr string
	// Token may do everything; empty without Options.ACL.
	Token string

	mu      sync.Mutex
	process *process // nil when stopped
}

// Start runs a server without access control until the test ends and returns
// its address, http://127.0.0.1:PORT.
func Start(t testing.TB) string {
	t.Helper()
	return New(t, Options{}).Addr
}

// New runs a server until the test ends and returns when it answers.
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

// Stop ends the server in an orderly way (SIGINT) and waits for its end.
func (s *Server) Stop() { s.end(os.Interrupt) }

// Kill ends the server as a power cut would (SIGKILL) and waits for its end.
func (s *Server) Kill() { s.end(os.Kill) }

// Restart starts a server that was stopped or killed, on the same ports and
// data, and returns when it answers. One that still runs is killed first. It
// may be called from any goroutine of the test.
func (s *Server) Restart() error {
	s.Kill()
	for attempt := 1; ; attempt++ {
		err := s.start()
		// Another server's search for free ports may hold one for a moment.
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
	// Nothing of the caller's environment may change what the server does.
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
		// Not leaving on SIGINT keeps the server in its own peer set.
		"skip_leave_on_interrupt": true,
		"log_level":               "warn",
		// raft_multiplier 1: a leader within 2 s of a start.
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

// waitReady returns when the server has a leader and has registered its own
// node: a session can be opened only then.
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
